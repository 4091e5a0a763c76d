"""Baselines to compare the model with."""
