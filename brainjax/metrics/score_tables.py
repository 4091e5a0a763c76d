"""Every score of a run as a table over all pairings, and its summary with interval, chance level and null."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from brainjax.metrics import class_accuracy, identification, image_scores, statistics
from brainjax.metrics.images import Images

TOP_KS = (1, 5)
RELEASED_WAYS, RELEASED_TRIALS = 50, 1000
Classifier = Callable[[np.ndarray], np.ndarray]


_TEXTS = {
  'mse': 'mean squared error on 0..255',
  'pcc': 'Pearson correlation of pixels',
  'ssim': 'structural similarity, 7x7 window',
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


def image_score_tables(stimuli: np.ndarray, samples: np.ndarray, num_ways: Sequence[int]) -> dict[str, Score]:
  """Image scores and identification by each: stimuli U H W 3, samples N S H W 3."""
  scores = {}
  for name, higher in image_scores.HIGHER_IS_BETTER.items():
    table = image_scores.table(name, samples, stimuli)
    scores[name] = Score(table, higher, None, _TEXTS[name])
    rivals = identification.num_rivals(table, higher)
    text = f'pairwise identification by {name.upper()}, strictly better'
    scores[f'pairwise_{name}'] = Score(identification.pairwise(rivals), True, 0.5, text, 'fraction')
    for n in num_ways:
      if 2 < n <= len(stimuli):
        text = f'{n}-way identification by {name.upper()}, expected over all draws'
        table = identification.expected_n_way(rivals, n)
        scores[f'identification_{n}way_{name}'] = Score(table, True, 1 / n, text, 'fraction')
  return scores


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


def classify(classifier: Classifier, images: np.ndarray, block: int = 64) -> np.ndarray:
  """Class probabilities of uint8 images ... H W 3, in blocks of one shape (a jitted classifier compiles once)."""
  flat = images.reshape(-1, *images.shape[-3:])  # ... H W 3 -> M H W 3
  results = []
  for start in range(0, len(flat), block):
    part = flat[start : start + block]
    padded = np.concatenate([part, np.repeat(part[-1:], block - len(part), axis=0)])
    results.append(np.asarray(classifier(padded), np.float32)[: len(part)])
  probabilities = np.concatenate(results)
  if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(axis=-1) - 1).max() > 1e-2:
    raise ValueError('the classifier must return finite probabilities that sum to 1')
  return probabilities.reshape(*images.shape[:-3], -1)


def summarise(
  score: Score,
  stimulus: np.ndarray,
  bootstrap: statistics.Bootstrap,
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
  values = statistics.observed(table, stimulus)
  entry = {
    'description': score.text,
    'higher_is_better': score.higher_is_better,
    'unit': score.unit,
    'chance': score.chance,
    'num_items': int(values.shape[0]),
    'num_samples': int(values.shape[1]),
  }
  for how in statistics.AGGREGATES:
    items = statistics.aggregate(values, how, score.higher_is_better)
    null = statistics.null_means(table, stimulus, pairings, how, score.higher_is_better)
    entry[how] = {
      'value': float(items.mean()),
      'interval': list(bootstrap.interval(items)),
      'null': {
        'mean': float(null.mean()),
        'interval': list(statistics.percentile_interval(null)),
        'p_value': statistics.p_value(float(items.mean()), null, score.higher_is_better),
      },
    }
  return entry


def released_protocol(probabilities: np.ndarray, class_id: np.ndarray, images: Images, seed: int) -> dict:
  """The release's own figures, for comparison with papers only: drawn trials, best column, wrapping MSE.

  Args:
    probabilities: N S C of the samples.
    class_id: N, arg-max on the stimulus.
    images: the images, for the MSE.
    seed: of the drawn classes.
  """
  columns = np.moveaxis(images.samples, 1, 0)  # S N H W 3
  wrapping = float(np.mean([image_scores.released_mse_u8(images.stimuli, column) for column in columns]))
  ways = min(RELEASED_WAYS, probabilities.shape[-1])
  rng = np.random.default_rng(seed)
  means = []
  for column in range(probabilities.shape[1]):
    picks = class_accuracy.draw_picks(rng, class_id, probabilities.shape[-1], ways, RELEASED_TRIALS)
    means.append(float(class_accuracy.sampled_top_k(probabilities[:, column], class_id, picks, 1).mean()))
  return {
    'mse_u8_wrapping': wrapping,
    'num_ways': ways,
    'top_k': 1,
    'num_trials': RELEASED_TRIALS,
    'seed': seed,
    'class_accuracy_mean_of_columns': float(np.mean(means)),
    'class_accuracy_best_column': max(means),
  }
