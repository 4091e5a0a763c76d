"""Draws scores and images: pictures and an HTML page. Computes no score."""

from brainjax.evaluation.report.charts import draw_curves, read_curves
from brainjax.evaluation.report.contents import Page, Strip, Trace
from brainjax.evaluation.report.grid import draw_grid
from brainjax.evaluation.report.page import put_brain_section, write_page

__all__ = ['Page', 'Strip', 'Trace', 'draw_curves', 'draw_grid', 'put_brain_section', 'read_curves', 'write_page']
