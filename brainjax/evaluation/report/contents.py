"""What a report shows: plain values, before any drawing."""

import dataclasses

import numpy as np

from brainjax.evaluation.images import Images


@dataclasses.dataclass(frozen=True)
class Trace:
  """One fMRI sample of a masked stage: original V, predicted V, masked V (true where the model did not see)."""

  original: np.ndarray
  predicted: np.ndarray
  masked: np.ndarray
  caption: str = ''


@dataclasses.dataclass(frozen=True)
class Strip:
  """A picture at K steps of the sampler: labels of the steps; row name -> K H W 3 uint8."""

  labels: list[str]
  rows: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Page:
  """Everything the report shows.

  Attributes:
    title: heading.
    images: stimuli and samples.
    scores: what scores.json holds.
    items: what scores_items.npz holds: 'scores/<name>' N S, ....
    summary: a sentence below the title.
    subject: N texts, or None.
    baselines: name -> N H W 3 uint8.
    nearest: N S H W 3 uint8, nearest training picture of each sample, or None.
    nearest_names: N S texts, what they show, or None.
    curves: stage -> scalar -> split -> (steps, values), from `read_curves`.
    traces: stage -> samples of fMRI reconstructions.
    denoising: one sample along the sampler's steps, or None.
    confused_classes: {of, taken_for, samples}: names of classes, the most frequent mistakes first.
    provenance: title -> mapping of plain values (config, versions, weights, data statistics).
  """

  title: str
  images: Images
  scores: dict
  items: dict[str, np.ndarray]
  summary: str = ''
  subject: np.ndarray | None = None
  baselines: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  nearest: np.ndarray | None = None
  nearest_names: np.ndarray | None = None
  curves: dict[str, dict] = dataclasses.field(default_factory=dict)
  traces: dict[str, list[Trace]] = dataclasses.field(default_factory=dict)
  denoising: Strip | None = None
  confused_classes: list[dict] = dataclasses.field(default_factory=list)
  provenance: dict[str, dict] = dataclasses.field(default_factory=dict)
