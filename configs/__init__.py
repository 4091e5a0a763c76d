"""Experiment configurations: one readable file each; base.py holds every field."""
