"""Uncertainty of scores, and reliability of repeated trials."""
