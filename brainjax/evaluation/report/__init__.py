"""Draws scores and images: pictures and an HTML page. Computes no score."""

from brainjax.evaluation.report.charts import stage_metrics, training_curves
from brainjax.evaluation.report.contents import Page, Strip, Trace
from brainjax.evaluation.report.grid import picture_grid
from brainjax.evaluation.report.page import write_page

__all__ = ['Page', 'Strip', 'Trace', 'picture_grid', 'stage_metrics', 'training_curves', 'write_page']
