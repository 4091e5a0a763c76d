"""The evaluate stage: a run's reconstructions scored beside baselines and nulls, drawn, and told on one page."""

from brainjax.scoring.stage import score, summary

__all__ = ['score', 'summary']
