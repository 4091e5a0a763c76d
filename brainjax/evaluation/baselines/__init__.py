"""Baselines that stand beside the model."""
