"""Registers the stages of the package, in the order in which messages and reports list them. Nothing else names them all."""

from brainjax.evaluation import stage as evaluate
from brainjax.evaluation.interpretation import stage as interpret
from brainjax.stages import attend, contrast, diffuse, first_stage, image_mae, label2img, reconstruct, scene_classifier
from brainjax.stages.registry import register

for _module in (
  contrast, attend, diffuse, reconstruct, evaluate, interpret, first_stage, image_mae, label2img, scene_classifier,
):  # fmt: skip
  register(_module.STAGE)
