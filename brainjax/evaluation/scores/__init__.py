"""Scores of pictures: by pixels, by class, by identification, by features."""
