"""Scores and images to pictures and a page that a person wants to look at. Computes no score."""

from brainjax.report.contents import Page, Strip, Trace
from brainjax.report.curves import stage_metrics, training_curves
from brainjax.report.grid import picture_grid
from brainjax.report.page import write_page

__all__ = ['Page', 'Strip', 'Trace', 'picture_grid', 'stage_metrics', 'training_curves', 'write_page']
