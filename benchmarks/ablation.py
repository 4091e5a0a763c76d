"""Ablations: what each part of the method adds, over several seeds and beside ridge regression.

python -m benchmarks.ablation [--set=main] [--config=configs/demo.py] [--arms=full,no_attend] [--seeds=0,1,2,3,4]
    [--out=runs/ablation] [--results=benchmarks/results]

An arm is a change of the config, or a method without some of its stages. Every stage runs once for each different config and
each different start, in a folder of `--out`, and arms share it; a second call runs only what is missing. A seed is also that of
the simulated subject, if there is one. Writes ablation.json (ablation_<set>.json for another set), a Markdown table and a figure
of the same name into `--results`, after every run, over the arms and seeds asked for.
"""

import argparse
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from brainjax import locate, pipeline, workdirs
from brainjax.errors import UserError, command_line
from brainjax.evaluation.statistics import resampling
from brainjax.files import atomic_write
from brainjax.stages.registry import RANDOM, STAGES

METRICS = {'top1': 'class_50way_top1', 'pcc': 'pairwise_pcc'}
TITLES = {'top1': '50-way top-1', 'pcc': 'pairwise identification by PCC'}
BASELINES = ('ridge', 'ridge_nearest')
REFERENCE = 'full'  # the arm that the others are compared with
DRAWS = 2000  # resamplings of the stimuli


class Arm(NamedTuple):
  """One variant of the method.

  Attributes:
    changes: field of the config -> value.
    stages: those that train. The first one starts from random weights.
    of_stage: stage -> changes for this stage alone.
  """

  changes: Mapping[str, Any] = {}
  stages: tuple[str, ...] = ('contrast', 'attend', 'diffuse')
  of_stage: Mapping[str, Mapping[str, Any]] = {}


FULL = {'full': Arm()}
STAGES_OFF = {
  'no_contrast': Arm(stages=('attend', 'diffuse')),
  'no_attend': Arm(stages=('contrast', 'diffuse')),
  # Without weights to keep, the full rate is better: the fair baseline.
  'no_pretraining': Arm({'diffuse.encoder_rate': 1.0}, ('diffuse',)),
}
LOSSES_OFF = {
  'no_self_contrast': Arm({'contrast.self_contrast': False}),
  'no_cross_contrast': Arm({'contrast.cross_contrast': False}),
  'no_contrastive_losses': Arm({'contrast.self_contrast': False, 'contrast.cross_contrast': False}),
}
QUIRKS = (
  'contrast_outer_half', 'self_weight_half', 'no_mask_loss', 'god_test_raw_scale', 'double_rescale', 'batch_of_two',
  'pool_drops_norms', 'full_extra_patch', 'train_decoder_positions', 'train_conditioner_positions', 'wrap_to_pretrained_width',
)  # fmt: skip
MORE = {
  'no_mask_loss': Arm({'contrast.mask_loss': False}),
  'released': Arm({f'released.{quirk}': True for quirk in QUIRKS} | {'contrast.negatives': 'per_device'}),
}
# Of 1,200 training pictures; none is held out. Contrast sees the responses to all of them, as it needs no pictures.
TRIALS = (75, 150, 300, 600, 1200)
REGIME = {
  f'{name}_{count}': Arm(
    {**arm.changes, 'data.num_val_stimuli': 0, 'data.target_train_proportion': count / 1200}, arm.stages
  )
  for count in TRIALS
  for name, arm in (FULL | {'no_pretraining': STAGES_OFF['no_pretraining']}).items()
}
# Few paired trials of one subject, 1,200 of each of two others that share its cortical sheet but for a fifth: the others' pictures
# enter attend alone, or diffuse too.
SHEET_TRIALS = (75, 150, 300)
OTHERS = {'data.other_subjects': ('sbj_2', 'sbj_3')}
SHEET_WORLD = {
  'simulate.subjects': 3,
  'simulate.subject_jitter': 0.2,
  'data.contrast_god_subjects': ('sbj_1', 'sbj_2', 'sbj_3'),
  'data.num_val_stimuli': 0,
  'attend.encoder_rate': 0.3,
  'diffuse.num_steps': 400,
}
SHEET = {
  f'{name}_{count}': arm._replace(changes=SHEET_WORLD | {'data.target_train_proportion': count / 1200} | arm.changes)
  for count in SHEET_TRIALS
  for name, arm in {
    'full': Arm({'diffuse.encoder_rate': 0.1}, of_stage={'attend': OTHERS}),
    'no_pretraining': STAGES_OFF['no_pretraining'],
    'no_pretraining_all_subjects': STAGES_OFF['no_pretraining']._replace(of_stage={'diffuse': OTHERS}),
  }.items()
}
# docs/method.md: a slower fMRI encoder keeps more of what it has learned. The config itself is the reference.
RATES = {
  'full': Arm(),
  'whole_rate': Arm({'attend.encoder_rate': 1.0, 'diffuse.encoder_rate': 1.0}),
  'no_pretraining': STAGES_OFF['no_pretraining'],
  'slow_no_pretraining': Arm(stages=('diffuse',)),
  'train_scale': Arm({'data.test_scale': 'train'}),
}
# Eight subjects of two data sets on one surface, 150 trials each: one model for all against a model of one subject; and a new subject
# with half of its trials, with and without the seven others. Contrast sees the responses of the same subjects as attend.
MOSAIC_SUBJECTS = tuple(f'sub-{k:02d}_{name}' for k in range(1, 5) for name in ('GOD', 'THINGS'))
MOSAIC_ALONE = {'data.other_subjects': (), 'data.contrast_mosaic_subjects': MOSAIC_SUBJECTS[:1]}
MOSAIC = {
  f'{name}_{count}': Arm(
    {
      'simulate.mosaic_subjects': 8,
      'data.subjects': MOSAIC_SUBJECTS[:1],
      'data.other_subjects': MOSAIC_SUBJECTS[1:],
      'data.contrast_mosaic_subjects': MOSAIC_SUBJECTS,
      'data.target_train_proportion': count / 150,
      **changes,
    }
  )
  for count in (75, 150)
  for name, changes in {'full': {}, 'one_subject': MOSAIC_ALONE, 'no_balance': {'data.balance': 0.0}}.items()
}
SETS = {
  'main': FULL | STAGES_OFF | LOSSES_OFF | MORE,
  'paper': FULL | LOSSES_OFF | {'no_attend': STAGES_OFF['no_attend']},  # the two ablation tables of the paper
  'rates': RATES,
  'regime': REGIME,
  'sheet': SHEET,
  'mosaic': MOSAIC,
}
PAIRED_ONLY = ('data.target_train_proportion',)  # fields that contrast does not read


def run_arm(config: ConfigDict, arm: Arm, out: Path) -> Path:
  """Trains, samples and scores an arm; returns the workdir with its scores. What `out` holds already is not made again."""
  start = RANDOM
  for name in arm.stages:
    group = (name, 'reconstruct', 'evaluate') if name == arm.stages[-1] else (name,)
    changes = {field: x for field, x in arm.changes.items() if name != 'contrast' or field not in PAIRED_ONLY}
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes | arm.of_stage.get(name, {}))
    if STAGES[name].after:
      changed[name].init_from = start
    changed = _with_shared_data(changed, out)
    workdir = out / f'{name}-{_digest(workdirs.relevant(changed, out, group[-1]))}'
    if not workdirs.is_complete(workdir / group[-1]):
      print(f'{workdir.name}: {", ".join(group)}', flush=True)
      pipeline.run(changed, workdir, group, asked=False)
      jax.clear_caches()  # a program a stage adds up
    start = str(workdir / name / 'weights')
  return workdir


def _with_shared_data(config: ConfigDict, out: Path) -> ConfigDict:
  """The config with one folder of simulated and prepared data for all runs of the same subject."""
  if not config.simulate.enabled:
    return config
  return workdirs.fill_in_paths(config, out / f'data-{_digest(json.loads(config.simulate.to_json_best_effort()))}')


def _digest(tree: Any) -> str:
  return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


class Scores(NamedTuple):
  """What is read of one run.

  Attributes:
    values: arm or baseline -> metric -> mean over items.
    items: arm or baseline -> metric -> (score of each item N, influence of each stimulus as a candidate N).
    check: N, a number for each picture.
  """

  values: dict[str, dict[str, float]]
  items: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]
  check: np.ndarray


def read_scores(workdir: Path, arm: str) -> Scores:
  """The scores of a run and of its baselines, whose names get the ending of the arm's, such as '_75'."""
  ending = f'_{arm.rsplit("_", 1)[1]}' if arm[-1].isdigit() else ''
  with np.load(workdir / 'scores_items.npz', allow_pickle=False) as archive:
    arrays = dict(archive)
  items: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
  for metric, name in METRICS.items():
    for owner, prefix in {arm: '', **{f'{b}{ending}': f'baselines/{b}/' for b in BASELINES}}.items():
      key = f'{prefix}{name}' if prefix else f'scores/{name}'
      if key in arrays:
        values = arrays[key].mean(axis=1)
        influence = arrays.get(f'candidates/{name}', np.zeros(len(values))) if owner == arm else np.zeros(len(values))
        items.setdefault(owner, {})[metric] = values, influence
  values = {owner: {metric: float(x.mean()) for metric, (x, _) in found.items()} for owner, found in items.items()}
  return Scores(values, items, arrays['stimulus_check'])


def collect(scores: Mapping[str, Mapping[int, Scores]]) -> dict[str, Any]:
  """What the JSON holds of the runs: arm -> seed -> scores.

  Returns:
    'arms': arm -> metric -> seed -> score; 'full_minus_arm': arm -> metric -> the mean paired difference, its 95 % intervals
    over stimuli (of all seeds; bootstrap) and over seeds (Student's t; None for one seed), and the seeds.
  """
  arms: dict[str, dict[str, dict[str, float]]] = {}
  items: dict[str, dict[int, Scores]] = {}
  for seeds in scores.values():
    for seed, found in seeds.items():
      for owner, metrics in found.values.items():
        items.setdefault(owner, {}).setdefault(seed, found)
        for metric, value in metrics.items():
          arms.setdefault(owner, {}).setdefault(metric, {}).setdefault(str(seed), value)
  differences = {}
  for arm, found in items.items():
    reference = items.get(_reference(arm), {})
    if arm != _reference(arm) and (common := sorted(reference.keys() & found.keys())):
      differences[arm] = {
        metric: _difference(_reference(arm), arm, metric, [(reference[seed], found[seed]) for seed in common], common)
        for metric in arms[arm]
      }
  return {'arms': arms, 'full_minus_arm': differences}


def _reference(arm: str) -> str:
  """'no_pretraining_75' is compared with 'full_75'."""
  return f'{REFERENCE}_{arm.rsplit("_", 1)[1]}' if arm[-1].isdigit() else REFERENCE


def _difference(
  reference: str, arm: str, metric: str, pairs: Sequence[tuple[Scores, Scores]], seeds: Sequence[int]
) -> dict[str, Any]:
  draws, means = [], []
  for seed, (ours, theirs) in zip(seeds, pairs, strict=True):
    if not np.array_equal(ours.check, theirs.check):
      raise UserError(f'{reference} and {arm} were scored on other pictures with seed {seed}; they cannot be compared.')
    (a, influence_a), (b, influence_b) = ours.items[reference][metric], theirs.items[arm][metric]
    bootstrap = resampling.Bootstrap.draw(np.arange(len(a)), DRAWS, seed)
    draws.append(bootstrap.means(a - b, influence_a - influence_b))
    means.append(float(np.mean(a - b)))
  half = None
  if len(means) > 1:
    half = float(stats.t.ppf(0.975, len(means) - 1) * np.std(means, ddof=1) / np.sqrt(len(means)))
  mean = float(np.mean(means))
  return {
    'difference': mean,
    'over_stimuli': list(resampling.percentile_interval(np.mean(draws, axis=0))),
    'over_seeds': None if half is None else [mean - half, mean + half],
    'seeds': list(seeds),
  }


def table(results: Mapping[str, Any]) -> str:
  """A Markdown table: mean over seeds of each score, and how far the whole method is above each arm."""
  header = ['arm', 'seeds']
  for title in TITLES.values():
    header += [title, 'full minus arm', 'over stimuli', 'over seeds']
  lines = [header, ['---'] * len(header)]
  for arm, metrics in results['arms'].items():
    cells = [arm, str(max(len(values) for values in metrics.values()))]
    for metric in TITLES:
      values = list(metrics.get(metric, {}).values())
      cells.append(f'{np.mean(values):.3f}' if values else '')
      entry = results['full_minus_arm'].get(arm, {}).get(metric)
      cells += [f'{entry["difference"]:+.3f}', *_intervals(entry)] if entry else [''] * 3
    lines.append(cells)
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def _intervals(entry: Mapping[str, Any]) -> list[str]:
  return [
    f'{entry[name][0]:+.3f} to {entry[name][1]:+.3f}' if entry[name] else '' for name in ('over_stimuli', 'over_seeds')
  ]


def draw(results: Mapping[str, Any], path: Path) -> None:
  """Draws a panel for each metric: every seed of every arm as a dot, the mean as a bar; curves for arms of several sizes."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  arms = results['arms']
  curves: dict[str, dict[int, str]] = {}
  for arm in arms:
    if arm[-1].isdigit():
      name, count = arm.rsplit('_', 1)
      curves.setdefault(name, {})[int(count)] = arm
  height = 3.6 if curves else 1.0 + 0.34 * len(arms)
  figure, axes = plt.subplots(1, len(TITLES), figsize=(10, height), sharey=not curves, layout='constrained')
  for axis, (metric, title) in zip(axes, TITLES.items(), strict=True):
    axis.spines[['top', 'right']].set_visible(False)
    if curves:
      for name, by_count in curves.items():
        counts = sorted(by_count)
        values = [list(arms[by_count[count]].get(metric, {}).values()) for count in counts]
        (line,) = axis.plot(counts, [np.mean(v) if v else np.nan for v in values], 'o-', label=name.replace('_', ' '))
        for count, seeds in zip(counts, values, strict=True):
          axis.plot([count] * len(seeds), seeds, '.', color=line.get_color(), alpha=0.5)
      axis.set_xscale('log')
      axis.set_xticks(counts, labels=[str(count) for count in counts])
      axis.minorticks_off()
      axis.set_xlabel('training trials with pictures')
      axis.set_ylabel(title)
      continue
    for place, (arm, metrics) in enumerate(arms.items()):
      values = list(metrics.get(metric, {}).values())
      colour = {'full': '#0b3c6f', 'ridge': '#999999', 'ridge_nearest': '#999999'}.get(arm, '#e69f00')
      axis.plot(values, [place] * len(values), 'o', color=colour, alpha=0.5, markersize=5)
      if values:
        axis.plot([np.mean(values)] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2.5)
    if values := list(arms.get(REFERENCE, {}).get(metric, {}).values()):
      axis.axvline(np.mean(values), color='#0b3c6f', linewidth=0.8, linestyle='--')
    axis.set_yticks(range(len(arms)), [arm.replace('_', ' ') for arm in arms])
    axis.set_ylim(len(arms) - 0.5, -0.5)
    axis.set_xlabel(f'{title} (dots: seeds, bars: means)')
  if curves:
    axes[0].legend(frameon=False)
  figure.savefig(path, dpi=130)
  plt.close(figure)


def write(results: Mapping[str, Any], folder: Path, name: str) -> None:
  """Writes JSON, table and figure."""
  with atomic_write(folder / f'{name}.json') as path:
    path.write_text(json.dumps(results, indent=1) + '\n')
  with atomic_write(folder / f'{name}.md') as path:
    path.write_text(table(results) + '\n')
  draw(results, folder / f'{name}.png')


def select(requested: str, known: Mapping[str, Arm], name: str) -> dict[str, Arm]:
  """The arms that a comma-separated list names, in the order of the set; all for an empty one."""
  names = requested.split(',') if requested else list(known)
  if unknown := [arm for arm in names if arm not in known]:
    raise UserError(f'--arms has {", ".join(unknown)}; the arms of --set={name} are {", ".join(known)}.')
  return {arm: changes for arm, changes in known.items() if arm in names}


def load_config(file: str) -> ConfigDict:
  """The config of a file, or of the package by its name."""
  spec = importlib.util.spec_from_file_location('ablated_config', locate.config(file))
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


@command_line
def main(argv: list[str] | None = None) -> None:
  """Runs the arms, seed by seed, and writes the results after each."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    '--set',
    default='main',
    choices=SETS,
    help='main, paper (its ablation tables), rates (of the encoder), regime (trials), sheet (few trials, other subjects), '
    'mosaic (one model for many subjects)',
  )
  parser.add_argument('--config', default='configs/demo.py')
  parser.add_argument('--arms', default='', help='some arms of the set, joined by commas; default: all')
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--out', type=Path, default=Path('runs/ablation'), help='folder of the runs')
  parser.add_argument('--results', type=Path, default=Path('benchmarks/results'))
  args = parser.parse_args(argv)
  arms = select(args.arms, SETS[args.set], args.set)
  try:
    seeds = [int(seed) for seed in args.seeds.split(',')]
  except ValueError:
    raise UserError(f'--seeds={args.seeds}: expected whole numbers joined by commas, such as 0,1,2.') from None
  out, name = args.out.absolute(), 'ablation' if args.set == 'main' else f'ablation_{args.set}'
  config = load_config(args.config)
  jax.config.update('jax_compilation_cache_dir', str(Path(config.compilation_cache).expanduser()))
  scores: dict[str, dict[int, Scores]] = {}
  about = {'set': args.set, 'config': args.config, 'seeds': seeds}
  for seed in seeds:
    for arm, changes in arms.items():
      seeded = config.copy_and_resolve_references()
      seeded.seed = seeded.simulate.seed = seed
      scores.setdefault(arm, {})[seed] = read_scores(run_arm(seeded, changes, out), arm)
      results = collect(scores) | about
      write(results, args.results, name)
  print(table(results))


if __name__ == '__main__':
  raise SystemExit(main())
