"""Every score of a run as a table over all pairings, and its summary with interval, chance level and null."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from brainjax.evaluation.images import Images
from brainjax.evaluation.networks import lpips
from brainjax.evaluation.scores import class_accuracy, features, identification, pixels
from brainjax.evaluation.statistics import resampling

TOP_KS = (1, 5)
RELEASED_WAYS, RELEASED_TRIALS = 50, 1000
Classifier = Callable[[np.ndarray], np.ndarray]


_TEXTS = {
  'mse': 'mean squared error on 0..255',
  'pcc': 'Pearson correlation of pixels',
  'ssim': 'structural similarity, 7x7 window',
  'lpips_alex': 'perceptual distance, AlexNet features',
}


@dataclasses.dataclass(frozen=True)
class Score:
  """One score of every sample under every pairing.

  Attributes:
    table: N S U, the score of sample s of item n if its stimulus were u; the true pairing is the score, others the
      null.
    higher_is_better: direction.
    chance: value of a reconstruction that knows nothing, None where it depends on the images (see the null).
    text: what it is, for a reader.
    unit: 'fraction' or ''.
  """

  table: np.ndarray
  higher_is_better: bool
  chance: float | None
  text: str
  unit: str = ''


def image_score_tables(
  stimuli: np.ndarray, samples: np.ndarray, num_ways: Sequence[int], perceptual: lpips.Params | None
) -> dict[str, Score]:
  """Image scores and identification by each.

  Args:
    stimuli: U H W 3 uint8.
    samples: N S H W 3 uint8.
    num_ways: n of n-way identification.
    perceptual: weights of LPIPS, None without it.
  """
  scores = {}
  for name, higher in pixels.HIGHER_IS_BETTER.items():
    table = pixels.table(name, samples, stimuli)
    scores |= {name: Score(table, higher, None, _TEXTS[name])} | _identification(name, table, higher, num_ways)
  if perceptual is not None:
    table = lpips.table(perceptual, samples, stimuli)
    scores['lpips_alex'] = Score(table, False, None, _TEXTS['lpips_alex'])
    scores |= _identification('lpips', table, False, num_ways)
  return scores


def _identification(name: str, table: np.ndarray, higher_is_better: bool, num_ways: Sequence[int]) -> dict[str, Score]:
  """Pairwise and n-way identification by one score: table N S U."""
  rivals = identification.num_rivals(table, higher_is_better)
  text = f'pairwise identification by {name.upper()}, strictly better'
  scores = {f'pairwise_{name}': Score(identification.pairwise(rivals), True, 0.5, text, 'fraction')}
  for n in num_ways:
    if 2 < n <= table.shape[-1]:
      text = f'{n}-way identification by {name.upper()}, expected over all draws'
      expected = identification.expected_n_way(rivals, n)
      scores[f'identification_{n}way_{name}'] = Score(expected, True, 1 / n, text, 'fraction')
  return scores


def feature_tables(stimuli: np.ndarray, samples: np.ndarray, name: str) -> dict[str, Score]:
  """Two-way identification by correlation of features: stimuli U D, samples N S D."""
  return _identification(name, features.feature_table(samples, stimuli), True, ())


def class_tables(probabilities: np.ndarray, classes: np.ndarray, num_ways: Sequence[int]) -> dict[str, Score]:
  """Class accuracy, exact: probabilities N S C of the samples, classes U of the stimuli."""
  scores = {}
  for n in num_ways:
    for k in TOP_KS:
      if k < n <= probabilities.shape[-1]:
        table = class_accuracy.expected_table(probabilities, classes, n, k)
        text = f'{n}-way top-{k} class accuracy, expected over all draws'
        scores[f'class_{n}way_top{k}'] = Score(table, True, k / n, text, 'fraction')
  return scores


def in_blocks(function: Classifier, images: np.ndarray, block: int = 64) -> np.ndarray:
  """Applies a function of uint8 B H W 3 to ... H W 3 in blocks of one shape (jit compiles once); returns ... D."""
  flat = images.reshape(-1, *images.shape[-3:])  # ... H W 3 -> M H W 3
  results = []
  for start in range(0, len(flat), block):
    part = flat[start : start + block]
    padded = np.concatenate([part, np.repeat(part[-1:], block - len(part), axis=0)])
    results.append(np.asarray(function(padded), np.float32)[: len(part)])
  values = np.concatenate(results)
  if not np.isfinite(values).all():
    raise ValueError('a classifier or feature function returned NaN or infinity')
  return values.reshape(*images.shape[:-3], -1)


def classify(classifier: Classifier, images: np.ndarray) -> np.ndarray:
  """Class probabilities: ... H W 3 uint8 -> ... C float32."""
  probabilities = in_blocks(classifier, images)
  if np.abs(probabilities.sum(axis=-1) - 1).max() > 1e-2:
    raise ValueError('the classifier must return probabilities that sum to 1')
  return probabilities


def summarise(
  score: Score,
  stimulus: np.ndarray,
  bootstrap: resampling.Bootstrap,
  pairings: np.ndarray,
  keep: np.ndarray | None = None,
) -> dict:
  """The entry of one score in scores.json.

  Args:
    score: the table, N S U.
    stimulus: N, which stimulus each item shows.
    bootstrap: resamplings of the stimuli of the kept items.
    pairings: shuffles U.
    keep: N bool, the items that count; None for all. Candidates of identification stay all U stimuli.

  Returns:
    Plain numbers and text.
  """
  keep = np.ones(len(stimulus), bool) if keep is None else keep
  table, stimulus = score.table[keep], stimulus[keep]
  values = resampling.observed(table, stimulus)
  entry = {
    'description': score.text,
    'higher_is_better': score.higher_is_better,
    'unit': score.unit,
    'chance': score.chance,
    'num_items': int(values.shape[0]),
    'num_samples': int(values.shape[1]),
  }
  for how in resampling.AGGREGATES:
    items = resampling.aggregate(values, how, score.higher_is_better)
    null = resampling.null_means(table, stimulus, pairings, how, score.higher_is_better)
    entry[how] = {
      'value': float(items.mean()),
      'interval': list(bootstrap.interval(items)),
      'null': {
        'mean': float(null.mean()),
        'interval': list(resampling.percentile_interval(null)),
        'p_value': resampling.p_value(float(items.mean()), null, score.higher_is_better),
      },
    }
  return entry


def released_protocol(probabilities: np.ndarray, class_id: np.ndarray, images: Images, seed: int) -> dict:
  """The release's own figures, for comparison with papers only: drawn and exact, mean and best column, wrapping MSE.

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
