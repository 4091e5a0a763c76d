"""Evaluation of a run: its scores with their uncertainty, its baselines, and its report.

| Shelf | What it holds |
|---|---|
| `stage` | the evaluate stage: reads a run, scores it, writes scores.json and the report |
| `score`, `compare`, `published_table` | scores of reconstructions; comparison of two runs; rows for published tables |
| `images`, `test_set` | the reconstructions; what the test set is (seen categories, noise ceiling) |
| `scores/` | definitions of the scores, arrays in, arrays out |
| `statistics/` | intervals, nulls, p values; reliability of repeated trials |
| `baselines/` | ridge regression and the pictures it makes |
| `networks/` | networks that judge pictures: classifiers, embedders, LPIPS |
| `breakdown` | scores by category and attribute, confusions, items chosen by a rule |
| `interpretation/` | lesions, saliency, attention, brain maps; the stage interpret |
| `report/` | report.html, pictures.png, training_curves.png |
"""
