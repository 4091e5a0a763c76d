"""Scores of a set of reconstructions as tables over all pairings, and the summary of each score."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from brainjax.evaluation.images import Images
from brainjax.evaluation.networks import lpips
from brainjax.evaluation.scores import class_accuracy, identification, pixels, published
from brainjax.evaluation.scores.correlation import correlation_table
from brainjax.evaluation.scores.frechet import frechet_distance
from brainjax.evaluation.scores.measures import Measure, Network, Score
from brainjax.evaluation.statistics import resampling

BLOCK = 64  # pictures that a network gets at once
TOP_KS = (1, 5)
RELEASED_WAYS, RELEASED_TRIALS = 50, 1000
# Attribute -> its value (a text) in each class C of the classifier, and in each stimulus U.
Attributes = Mapping[str, tuple[np.ndarray, np.ndarray]]

_TEXTS = {
  'mse': 'mean squared error on 0..255',
  'pcc': 'Pearson correlation of pixels',
  'ssim': 'structural similarity, 7x7 window',
  'lpips_alex': 'perceptual distance, AlexNet features',
}


@dataclasses.dataclass(frozen=True)
class Measured:
  """Everything that was measured of a set of reconstructions; all scores are computed from it.

  Attributes:
    measures: name -> measure.
    probabilities: N S C of the samples, None without a classifier.
    classes: U, the class of each stimulus, None without a classifier.
    distances: network -> Frechet distance of the first samples to the stimuli.
    attributes: attribute -> its value in each class C, and in each stimulus U; see `attribute_scores`.
    published: name -> measure of `published.scores`.
    stimulus: N, the stimulus of each item, which brain retrieval needs.
  """

  measures: dict[str, Measure]
  probabilities: np.ndarray | None = None
  classes: np.ndarray | None = None
  distances: dict[str, float] = dataclasses.field(default_factory=dict)
  attributes: Attributes = dataclasses.field(default_factory=dict)
  published: dict[str, Measure] = dataclasses.field(default_factory=dict)
  stimulus: np.ndarray | None = None

  def select(self, items: np.ndarray, stimuli: np.ndarray) -> 'Measured':
    """The same of some items (indices or N bool), with some stimuli (indices) as the only candidates."""

    def pick(measures: dict[str, Measure]) -> dict[str, Measure]:
      return {
        name: dataclasses.replace(measure, table=measure.table[items][:, :, stimuli])
        for name, measure in measures.items()
      }

    return Measured(
      pick(self.measures),
      None if self.probabilities is None else self.probabilities[items],
      None if self.classes is None else self.classes[stimuli],
      attributes={name: (of_class, values[stimuli]) for name, (of_class, values) in self.attributes.items()},
      published=pick(self.published),
      stimulus=None if self.stimulus is None else np.searchsorted(stimuli, self.stimulus[items]),
    )

  def scores(self, num_ways: Sequence[int]) -> dict[str, Score]:
    """All scores: each measure, identification by it, class accuracy, and those of published tables.

    Args:
      num_ways: n of n-way identification and class accuracy. Left out where there are fewer stimuli or classes.
    """
    result = {}
    for name, measure in self.measures.items():
      if measure.text:
        result[name] = Score(measure.table, measure.higher_is_better, None, measure.text)
      result |= _identification(name.removesuffix('_alex'), measure, num_ways)
    if self.classes is not None:
      for n in num_ways:
        for k in TOP_KS:
          if k < n <= self.probabilities.shape[-1]:
            table = class_accuracy.expected_table(self.probabilities, self.classes, n, k)
            text = f'{n}-way top-{k} class accuracy, expected over all draws'
            result[f'class_{n}way_top{k}'] = Score(table, True, k / n, text, 'fraction')
      result |= attribute_scores(self.probabilities, self.attributes)
    return result | published.scores(self.published, self.stimulus)


def _identification(name: str, measure: Measure, num_ways: Sequence[int]) -> dict[str, Score]:
  """Pairwise and n-way identification by one measure; only pairwise by one that is no score itself."""
  rivals = identification.num_rivals(measure.table, measure.higher_is_better)
  scores = {}
  for n in sorted({2, *(num_ways if measure.text else ())}):
    if n <= measure.table.shape[-1]:
      key = f'pairwise_{name}' if n == 2 else f'identification_{n}way_{name}'
      text = f'{"pairwise" if n == 2 else f"{n}-way"} identification by {name.upper()}, '
      text += 'strictly better' if n == 2 else 'expected over all draws'
      expected = identification.expected_n_way(rivals, n)
      scores[key] = Score(expected, True, 1 / n, text, 'fraction', measure, n)
  return scores


def attribute_scores(probabilities: np.ndarray, attributes: Attributes) -> dict[str, Score]:
  """Whether the value of each attribute (colour, ...) is the most probable one, of all values that classes have.

  The probability of a value is the sum over the classes that have it. Ties are ordered by a fair draw.

  Args:
    probabilities: N S C of the samples.
    attributes: see `Attributes`.
  """
  result = {}
  for name, (of_class, of_stimulus) in attributes.items():
    values, column = np.unique(of_class, return_inverse=True)
    marginal = probabilities @ (column[:, None] == np.arange(len(values)))  # N S K
    table = class_accuracy.expected_table(marginal, np.searchsorted(values, of_stimulus), len(values), 1)
    text = f'the {name} of the stimulus is the most probable of {len(values)}'
    result[f'attribute_{name}'] = Score(table, True, 1 / len(values), text, 'fraction')
  return result


def measure_samples(
  samples: np.ndarray,
  stimuli: np.ndarray,
  classes: np.ndarray | None,
  targets: Mapping[str, np.ndarray],
  classifier: Network | None,
  features: Mapping[str, Network],
  perceptual: lpips.Params | None,
  attributes: Attributes | None = None,
  published_networks: Mapping[str, published.Compared] | None = None,
  stimulus: np.ndarray | None = None,
) -> Measured:
  """Measures every sample against every stimulus.

  Args:
    samples: N S H W 3 uint8.
    stimuli: U H W 3 uint8.
    classes: U, None without a classifier.
    targets: network -> features of the stimuli, U D.
    classifier: pictures to class probabilities, or None.
    features: network -> pictures to features.
    perceptual: weights of LPIPS, None without it.
    attributes: see `attribute_scores`; none without a classifier.
    published_networks: those of `published.measure`.
    stimulus: N, the stimulus of each item.
  """
  measures = {
    name: Measure(pixels.table(name, samples, stimuli), higher, _TEXTS[name])
    for name, higher in pixels.HIGHER_IS_BETTER.items()
  }
  if perceptual is not None:
    measures['lpips_alex'] = Measure(lpips.table(perceptual, samples, stimuli), False, _TEXTS['lpips_alex'])
  distances = {}
  for name, function in features.items():
    values = in_blocks(function, samples)  # N S D
    measures[name] = Measure(correlation_table(values, targets[name]), True)
    # One sample of each item, so that samples of one item do not count as different pictures.
    distances[name] = frechet_distance(values[:, 0], targets[name])
  probabilities = None if classifier is None else classify(classifier, samples)
  compared = published.measure(samples, stimuli, published_networks or {})
  return Measured(measures, probabilities, classes, distances, attributes or {}, compared, stimulus)


def in_blocks(function: Network, images: np.ndarray) -> np.ndarray:
  """Applies a function of uint8 B H W 3 to ... H W 3 in blocks of one shape (jit compiles once); returns ... D.

  Raises:
    ValueError: it returns NaN or infinity.
  """
  flat = images.reshape(-1, *images.shape[-3:])  # ... H W 3 -> M H W 3
  results = []
  for start in range(0, len(flat), BLOCK):
    part = flat[start : start + BLOCK]
    padded = np.concatenate([part, np.repeat(part[-1:], BLOCK - len(part), axis=0)])
    results.append(np.asarray(function(padded), np.float32)[: len(part)])
  values = np.concatenate(results)
  if not np.isfinite(values).all():
    raise ValueError('a classifier or feature function returned NaN or infinity')
  return values.reshape(*images.shape[:-3], -1)


def classify(classifier: Network, images: np.ndarray) -> np.ndarray:
  """Class probabilities: ... H W 3 uint8 -> ... C float32.

  Raises:
    ValueError: they do not sum to 1.
  """
  probabilities = in_blocks(classifier, images)
  if np.abs(probabilities.sum(axis=-1) - 1).max() > 1e-2:
    raise ValueError('the classifier must return probabilities that sum to 1')
  return probabilities


def summarise(score: Score, bootstrap: resampling.Bootstrap, pairings: np.ndarray) -> dict:
  """The entry of one score in scores.json: plain numbers and text. `pairings`: shuffles U, for the null."""
  stimulus = bootstrap.stimulus
  values = resampling.observed(score.table, stimulus)
  entry = {
    'description': score.text,
    'higher_is_better': score.higher_is_better,
    'unit': score.unit,
    'chance': score.chance,
    'num_items': int(values.shape[0]),
    'num_samples': int(values.shape[1]),
  }
  for how in resampling.AGGREGATES:
    means = resampling.aggregate(values, how, score.higher_is_better)
    null = resampling.null_means(score.table, stimulus, pairings, how, score.higher_is_better)
    low, high = bootstrap.interval(means, score.influence(stimulus, how))
    if score.unit == 'fraction':  # the influence of candidates may carry the end of the interval outside
      low, high = max(low, 0.0), min(high, 1.0)
    entry[how] = {
      'value': float(means.mean()),
      'interval': [low, high],
      'null': {
        'mean': float(null.mean()),
        'interval': list(resampling.percentile_interval(null)),
        'p_value': resampling.p_value(float(means.mean()), null, score.higher_is_better),
      },
    }
  return entry


def released_protocol(probabilities: np.ndarray, class_id: np.ndarray, images: Images, seed: int) -> dict:
  """The release's own figures, only for comparison with papers: drawn and exact, mean and best column, wrapping MSE.

  Args:
    probabilities: N S C of the samples.
    class_id: N, arg-max on the stimulus.
    images: the images, for the MSE.
    seed: of the drawn classes.
  """
  columns = np.moveaxis(images.samples, 1, 0)  # S N H W 3
  wrapping = float(np.mean([pixels.released_mse_u8(images.stimuli, column) for column in columns]))
  ways = min(RELEASED_WAYS, probabilities.shape[-1])
  rng = np.random.default_rng(seed)
  means = []
  for column in range(probabilities.shape[1]):
    picks = class_accuracy.draw_picks(rng, class_id, probabilities.shape[-1], ways, RELEASED_TRIALS)
    means.append(float(class_accuracy.sampled_top_k(probabilities[:, column], class_id, picks, 1).mean()))
  exact = class_accuracy.expected_top_k(probabilities, class_id[:, None], ways, 1).mean(axis=0)  # S
  return {
    'mse_u8_wrapping': wrapping,
    'num_ways': ways,
    'top_k': 1,
    'num_trials': RELEASED_TRIALS,
    'seed': seed,
    'class_accuracy_mean_of_columns': float(np.mean(means)),
    'class_accuracy_best_column': max(means),
    'class_accuracy_exact_mean_of_columns': float(exact.mean()),
    'class_accuracy_exact_best_column': float(exact.max()),
  }
