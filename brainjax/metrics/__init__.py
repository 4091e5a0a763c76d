"""Scores of reconstructed images, and the uncertainty of scores."""
