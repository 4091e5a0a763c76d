"""Measures what the fMRI encoder of a simulated run holds after each phase, beside its voxels and a random encoder.

python -m benchmarks.tokens --run=runs/demo [--config=configs/demo.py] [--results=benchmarks/results]

Ridge regression from the tokens to the attributes of the scenes and to the latents of the pictures. Training trials are those of
the run; held out are its validation trials, and the test responses at two scales (docs/evaluation.md). Writes tokens.json and
tokens.png, and prints a Markdown table.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.ablation import load_config
from brainjax import workdirs
from brainjax.checkpoints import load_weights
from brainjax.errors import UserError, command_line
from brainjax.files import atomic_write
from brainjax.models.fmri_mae import fmri_weights
from brainjax.simulator import stimuli
from brainjax.stages import data as stage_data
from brainjax.stages import diffuse, first_stage, transfer
from brainjax.trees import flatten, subtree, unflatten

PENALTIES = tuple(10.0**power for power in range(-4, 3))  # in units of the mean squared norm of a centred row
SETS = ('validation', 'test', 'test at the scale of single trials')
PHASES = ('contrast', 'attend', 'diffuse')
OFFSETS = np.cumsum((0, *stimuli.NUM_VALUES))


class Rows(NamedTuple):
  """fMRI N V, attributes of the scenes N 5, latents of the pictures N K."""

  fmri: np.ndarray
  attributes: np.ndarray
  latents: np.ndarray


def read_rows(config: ConfigDict) -> dict[str, Rows]:
  """Training rows, and the rows of each of `SETS`."""
  weights, _ = load_weights(config.diffuse.prior_init_from)
  encoder, parameters = first_stage.model(config), subtree(weights, 'first_stage')
  categories = stimuli.categories().attributes
  found = {}
  for name, read in {
    'train': lambda: stage_data.target_rows(config, 'train', image_size=config.data.image_size),
    'validation': lambda: stage_data.target_rows(config, 'val', image_size=config.data.image_size),
    'test': lambda: stage_data.test(config),
  }.items():
    rows = read()
    latents = first_stage.encode_pictures(encoder, parameters, rows.pictures)[rows.picture_row]
    attributes = categories[rows.columns['class_index']]
    found[name] = Rows(rows.columns['fmri'], attributes, latents.reshape(len(latents), -1))
  scale = np.sqrt(np.mean(np.square(found['test'].fmri), axis=1, keepdims=True))
  found[SETS[2]] = found['test']._replace(fmri=found['test'].fmri / scale)
  return found


def encoders(
  config: ConfigDict, run: Path, num_voxels: int
) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
  """Name and function fMRI N V -> features: the voxels, a random encoder, and the encoder after each phase of the run."""
  model = diffuse.models(config, num_voxels).conditioner
  fresh = flatten(model.init(jax.random.key(config.seed), *model.example_inputs())['params'])
  shapes = {path: tuple(x.shape) for path, x in fresh.items()}
  encode = jax.jit(lambda params, fmri: model.apply({'params': params}, fmri, method='encode'))
  tokens_of = lambda flat: lambda fmri: np.asarray(encode(unflatten(flat), fmri))
  yield 'voxels', np.asarray
  yield 'random encoder', tokens_of(fresh)
  for phase in PHASES:
    if not workdirs.is_complete(run / phase):
      continue
    weights, _ = load_weights(run / phase / 'weights')
    trained = subtree(weights, 'conditioner') or transfer.mae_to_conditioner(fmri_weights(weights), shapes)
    yield f'after {phase}', tokens_of(fresh | trained)


class Ridge:
  """Ridge regression from features N F, all penalties from one decomposition of the Gram matrix."""

  def __init__(self, features: np.ndarray):
    self._mean = features.mean(axis=0)
    self._centred = (features - self._mean).astype(np.float64)
    self.spectrum, self._vectors = np.linalg.eigh(self._centred @ self._centred.T)

  def effective_rank(self) -> float:
    """exp of the entropy of the spectrum: the number of directions that the variance is spread over."""
    share = self.spectrum[self.spectrum > 0] / self.spectrum[self.spectrum > 0].sum()
    return float(np.exp(-np.sum(share * np.log(share))))

  def predict(self, targets: np.ndarray, features: np.ndarray, penalty: float) -> np.ndarray:
    """Predictions M T for features M F, trained on targets N T."""
    mean, scale = targets.mean(axis=0), np.mean(self.spectrum)
    dual = self._vectors @ ((self._vectors.T @ (targets - mean)) / (self.spectrum + penalty * scale)[:, None])
    return (features - self._mean) @ (self._centred.T @ dual) + mean


def attribute_accuracy(predicted: np.ndarray, attributes: np.ndarray) -> list[float]:
  """The share of rows whose arg-max is right, for each attribute."""
  chosen = [predicted[:, a:b].argmax(axis=1) for a, b in zip(OFFSETS, OFFSETS[1:], strict=False)]
  return [float(np.mean(guess == attributes[:, i])) for i, guess in enumerate(chosen)]


def measure(rows: dict[str, Rows], features: Callable[[np.ndarray], np.ndarray]) -> dict[str, object]:
  """Accuracy of each attribute in each set, R squared of the latents in validation, and the effective rank.

  Each penalty is the one that is best on the validation trials.
  """
  flat = {name: (x := features(part.fmri)).reshape(len(x), -1) for name, part in rows.items()}
  ridge, train = Ridge(flat['train']), rows['train']
  one_hot = np.concatenate(
    [np.eye(n)[train.attributes[:, i]] for i, n in enumerate(stimuli.NUM_VALUES)], axis=1
  )  # N 37
  accuracies = [
    {name: attribute_accuracy(ridge.predict(one_hot, flat[name], p), rows[name].attributes) for name in SETS}
    for p in PENALTIES
  ]
  truth = rows['validation'].latents
  total = np.square(truth - train.latents.mean(axis=0)).sum()
  errors = [np.square(truth - ridge.predict(train.latents, flat['validation'], p)).sum() for p in PENALTIES]
  return {
    'attributes': max(accuracies, key=lambda found: np.mean(found['validation'])),
    'latents_r2': float(1 - min(errors) / total),
    'effective_rank': ridge.effective_rank(),
  }


def table(results: dict[str, dict]) -> str:
  """A Markdown table: mean accuracy over attributes in each set, R squared of the latents, effective rank."""
  lines = [['Ridge regression from', *SETS, 'latents, R²', 'effective rank'], ['---'] * 6]
  for name, found in results.items():
    means = [f'{np.mean(found["attributes"][name]):.3f}' for name in SETS]
    lines.append([name, *means, f'{found["latents_r2"]:.3f}', f'{found["effective_rank"]:.0f}'])
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def draw(results: dict[str, dict], path: Path) -> None:
  """Draws the accuracy of each attribute in the test responses, and the effective rank."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  names, colours = list(results), ('#999999', '#e69f00', '#56b4e9', '#0b3c6f', '#009e73')
  figure, axes = plt.subplots(1, 3, figsize=(12, 3.9), width_ratios=(3, 3, 1.4), layout='constrained')
  places = np.arange(len(stimuli.ATTRIBUTES))
  for axis, part in zip(axes, SETS[1:], strict=False):
    for i, (name, colour) in enumerate(zip(names, colours, strict=False)):
      axis.bar(
        places + (i - (len(names) - 1) / 2) * 0.16, results[name]['attributes'][part], 0.15, color=colour, label=name
      )
    axis.set_xticks(places, stimuli.ATTRIBUTES)
    axis.set_ylim(0, 1.02)
    axis.set_title({'test': 'averaged test responses', SETS[2]: 'the same, at the scale of single trials'}[part])
  axes[0].set_ylabel('attribute told by ridge regression')
  figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=len(names), frameon=False)
  axes[2].barh(range(len(names)), [results[name]['effective_rank'] for name in names], color=colours[: len(names)])
  axes[2].set_yticks(range(len(names)), names)
  axes[2].invert_yaxis()
  axes[2].set_title('effective rank')
  for axis in axes:
    axis.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=130)
  plt.close(figure)


@command_line
def main(argv: list[str] | None = None) -> None:
  """Measures, writes and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--run', type=Path, required=True, help='workdir of a simulated run')
  parser.add_argument('--config', default='configs/demo.py', help='the config of that run')
  parser.add_argument('--results', type=Path, default=Path('benchmarks/results'))
  args = parser.parse_args(argv)
  config = workdirs.fill_in_paths(load_config(args.config), args.run.absolute())
  if not config.simulate.enabled or not config.data.num_val_stimuli:
    raise UserError(f'--config={args.config}: expected simulated data with validation stimuli, as in configs/demo.py.')
  rows = read_rows(config)
  results = {
    name: measure(rows, features) for name, features in encoders(config, args.run, rows['train'].fmri.shape[1])
  }
  with atomic_write(args.results / 'tokens.json') as path:
    path.write_text(json.dumps(results, indent=1) + '\n')
  draw(results, args.results / 'tokens.png')
  print(table(results))


if __name__ == '__main__':
  raise SystemExit(main())
