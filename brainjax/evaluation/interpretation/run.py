"""A finished run that is to be explained: its model, test rows, areas, and what scores its pictures."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from brainjax.datasets import registry, transforms
from brainjax.datasets.arrays import ArrayDataset
from brainjax.errors import UserError, list_names
from brainjax.evaluation import test_set
from brainjax.evaluation.images import Images
from brainjax.evaluation.interpretation import saliency
from brainjax.evaluation.interpretation.areas import Areas
from brainjax.evaluation.networks import classifiers
from brainjax.evaluation.networks.classifiers import Classifier
from brainjax.evaluation.score import Judge
from brainjax.reconstruct import Reconstructor
from brainjax.sharding import RowMap
from brainjax.stages import common, reconstruct
from brainjax.stages import data as stage_data

ENCODED_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class Run:
  """A run whose pictures are to be explained.

  Attributes:
    config: resolved.
    workdir: of the run.
    reconstructor: its model.
    test: the chosen test rows N.
    areas: of each subject of the config.
  """

  config: ConfigDict
  workdir: Path
  reconstructor: Reconstructor
  test: ArrayDataset
  areas: list[Areas]

  @classmethod
  def open(cls, config: ConfigDict, workdir: Path, items: Sequence[int] = ()) -> 'Run':
    """Loads what all methods need.

    Args:
      config: of the run, resolved.
      workdir: of the run.
      items: test rows; none: the first `config.interpret.num_items` of each subject.

    Raises:
      UserError: weights or data cannot be read; an unknown area or item; weights without an input transform.
    """
    reconstructor = Reconstructor(reconstruct.weights_of(workdir), common.compute_dtype(config))
    test = stage_data.test(config, reconstructor.transforms)
    first = config.interpret.num_items or len(test)
    of_each = [np.flatnonzero(test.columns['subject'] == place)[:first] for place in range(len(config.data.subjects))]
    chosen = np.array(items, int) if items else np.concatenate(of_each)
    known, counts = np.unique(chosen, return_counts=True)
    if len(wrong := known[(known < 0) | (known >= len(test)) | (counts > 1)]):
      raise UserError(
        f'items: {list_names(map(str, wrong))} cannot be used; expected different numbers from 0 to {len(test) - 1}.'
      )
    test = test.take(chosen)
    if len(np.unique(test.columns['stimulus'])) < 2:
      raise UserError('items: all show one stimulus; choose items of two stimuli or more.')
    areas = []
    for subject in config.data.subjects:
      if subject not in reconstructor.transforms:
        raise UserError(
          f'the weights do not say how responses of {subject} become model input, so areas cannot be found in it; use '
          'weights that brainjax has trained.'
        )
      masks = registry.get(config.data.dataset).open(config.data.prepared, subject).info.metadata.masks
      areas.append(Areas.of(reconstructor.transforms[subject], masks, config.interpret.areas))
    return cls(config, workdir, reconstructor, test, areas)

  @property
  def fmri(self) -> np.ndarray:
    """Model input N W."""
    return transforms.fit_width(self.test.columns['fmri'], self.reconstructor.num_voxels)

  @property
  def subject(self) -> np.ndarray:
    """N, places in the subjects of the config."""
    return self.test.columns['subject']

  @property
  def subjects(self) -> list[tuple[int, str]]:
    """Place in the config and name of each subject that has items."""
    return [(place, name) for place, name in enumerate(self.config.data.subjects) if (self.subject == place).any()]

  @property
  def names(self) -> list[str]:
    """The areas that every subject has."""
    return [name for name in self.areas[0].masks if all(name in each.masks for each in self.areas)]

  @cached_property
  def train(self) -> ArrayDataset:
    """The training rows with pictures."""
    return self._train_rows(self.config.data.image_size)

  def _train_rows(self, image_size: int) -> ArrayDataset:
    return stage_data.target_rows(self.config, 'train', image_size=image_size, fitted=self.reconstructor.transforms)

  @cached_property
  def baselines(self) -> np.ndarray:
    """The mean training response of each subject of the config, as test rows come: K W."""
    fitted = [self.reconstructor.transforms[subject] for subject in self.config.data.subjects]
    # A z-score of each voxel makes its mean 0. With one mean for all voxels, as in the paper, the rows must say it.
    rows = None if all(transform.mean.ndim for transform in fitted) else self._train_rows(0).columns
    means = []
    for place, transform in enumerate(fitted):
      mine = rows['fmri'][rows['subject'] == place] if rows else np.zeros((1, self.reconstructor.num_voxels))
      mean = mine.mean(axis=0, dtype=np.float64)
      means.append(transform.to_raw_scale(mean) if transform.test_raw_scale else mean)
    return transforms.fit_width(np.stack(means), self.reconstructor.num_voxels).astype(np.float32)

  @property
  def uninformative(self) -> np.ndarray:
    """The mean training response of each row's subject, as model input: N W."""
    return self.baselines[self.subject]

  @cached_property
  def classifier(self) -> Classifier | None:
    """What scores the pictures, if anything does."""
    source = self.config.evaluate.classifier
    return classifiers.load(source) if source else None

  @cached_property
  def judge(self) -> Judge:
    """Measures pictures of these items."""
    columns, pictures = self.test.columns, self.test.pictures[self.test.picture_row]
    images = Images(pictures, pictures[:, None], columns['stimulus'], columns['class_index'])
    probabilities = self.classifier and self.classifier.probabilities
    known = test_set.known_attributes(self.config, self.classifier, columns['class_index'])
    return Judge(images, probabilities, attributes=known)

  def sample(self, fmri: np.ndarray) -> np.ndarray:
    """Pictures of model input N W, always with the same noise: N S H W 3."""
    own, sampling = self.config.interpret, self.config.reconstruct
    return self.reconstructor(
      fmri,
      num_samples=own.num_samples,
      num_steps=own.num_steps,
      sampler=own.sampler,
      seed=sampling.seed,
      guidance=sampling.guidance,
      batch_size=sampling.batch_size,
      normalised=True,
    )

  def directions(self) -> dict[str, np.ndarray]:
    """The direction of `config.interpret.attribute` in the space of latents: h w C.

    It leads from the mean latent of training pictures whose name lacks the text to that of those whose name has it.

    Raises:
      UserError: all names have it, or none.
    """
    text = self.config.interpret.attribute
    if not text:
      return {}
    names = [self.train.info['names'][n] for n in self.train.info['picture_stimulus'].tolist()]
    has = np.array([text in name for name in names])
    if has.all() or not has.any():
      raise UserError(
        f'config.interpret.attribute is {text!r}, which {"all" if has.all() else "no"} names of training pictures have; '
        f'they are like {names[0]!r}.'
      )
    latents = self.encode(self.train.pictures)
    return {text: latents[has].mean(axis=0) - latents[~has].mean(axis=0)}

  def encode(self, pictures: np.ndarray) -> np.ndarray:
    """Pictures P H W 3 uint8 -> latents P h w C of the first stage."""
    first_stage = self.reconstructor.models.first_stage
    to_latent = RowMap(
      lambda params, x: first_stage.apply({'params': params}, x, method='to_latent'),
      self.reconstructor.params['first_stage'],
      ENCODED_AT_ONCE,
      transforms.to_signed_unit,
    )
    return to_latent(pictures)

  @property
  def looking(self) -> dict[str, Any]:
    """Arguments that saliency and attention share, see `looks.over_batches`."""
    own, sampling = self.config.interpret, self.config.reconstruct
    return {
      'at': tuple(own.levels),
      'num_steps': own.num_steps,
      'sampler': own.sampler,
      'seed': sampling.seed,
      'guidance': sampling.guidance,
      'batch_size': own.batch_size,
    }

  def saliency_of(
    self, fmri: np.ndarray, baseline: np.ndarray, reconstructor: Reconstructor, **targets: Any
  ) -> saliency.Saliency:
    """Saliency of a model input N W with the options of the run; `targets` as of `saliency.compute`."""
    own = self.config.interpret
    options = {'num_points': own.num_points, 'noise': own.smooth_noise}
    return saliency.compute(reconstructor, fmri, baseline, **targets, **options, **self.looking)
