"""The stage interpret: asks what in the fMRI made the pictures of a run, and writes interpret/ of the workdir."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from brainjax import hosts
from brainjax.checkpoints import weights_digest
from brainjax.datasets import registry
from brainjax.evaluation import report
from brainjax.evaluation import stage as evaluate
from brainjax.evaluation.interpretation import methods, results, truth
from brainjax.evaluation.interpretation.run import Run
from brainjax.evaluation.report.figures import KINDS
from brainjax.evaluation.report.labels import choose_headline, format_label
from brainjax.rules import NOT_NEGATIVE, POSITIVE, Rule
from brainjax.stages import data as stage_data
from brainjax.stages import reconstruct
from brainjax.stages.registry import StageSpec
from brainjax.trees import flatten

SHOWN = ('signal_correlation', 'noise_auc')  # of `truth.agreement`
DRAWN = 12  # items in the pictures beside interpret.json


def interpret(
  config: ConfigDict, workdir: Path, chosen: Sequence[str] = methods.METHODS, items: Sequence[int] = ()
) -> dict[str, Any]:
  """Runs methods and writes interpret.json, interpret.npz and a picture for each kind of lesion.

  Args:
    config: of the run, resolved.
    workdir: of the run.
    chosen: some of `methods.METHODS`.
    items: test rows, see `Run.open`.

  Returns:
    What interpret.json holds. Nothing is written, and this is empty, if none of the methods can be used on this run.

  Raises:
    UserError: as `Run.open`.
  """
  run = Run.open(config, workdir, items)
  own = config.interpret.to_dict()
  own.pop('methods')
  about = {
    'stimulus': run.test.columns['stimulus'].tolist(),
    'names': [run.test.info['names'][n] for n in run.test.columns['stimulus'].tolist()],
    'subjects': [config.data.subjects[place] for place in run.subject.tolist()],
    'weights': weights_digest(flatten(run.reconstructor.params)),
    'classifier': run.classifier and run.classifier.name,
    'settings': own | {'guidance': config.reconstruct.guidance, 'seed': config.reconstruct.seed},
    'areas': {
      subject: {name: int(mask.sum()) for name, mask in each.masks.items()}
      for subject, each in zip(config.data.subjects, run.areas, strict=True)
    },
  }
  items_shown = {'items/stimuli': run.test.pictures[run.test.picture_row]}
  done = None
  for name in chosen:
    if reason := methods.obstacle(run, name):
      hosts.log(f'interpret: no {name}: {reason}')
      continue
    hosts.log(f'interpret: {name}')
    part, found = methods.RUNNERS[name](run)
    parts = {name: part}
    if registry.is_simulated(config) and name == 'saliency':
      hosts.log('interpret: truth')
      parts['truth'] = truth.compare(run, _maps(run, found))
    # At once: it stays where a later method is interrupted.
    done = results.write(workdir, about, parts, items_shown | {f'{name}/{key}': value for key, value in found.items()})
  if done is None:
    return {}
  plain, arrays = done
  _draw(workdir / results.FOLDER, plain, arrays)
  if (workdir / evaluate.REPORT).is_file():
    report.put_brain_section(workdir / evaluate.REPORT, plain, arrays)
  return plain


def _draw(folder: Path, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
  """The first items side by side: stimulus, picture from the whole response, pictures without (or from) each area."""
  rows = slice(DRAWN)
  series = {}  # name of the file -> title, keys of the pictures
  for kind, areas in plain.get('lesion', {}).items():
    series[f'lesion_{kind}'] = f'without an area, {KINDS[kind][0]}', [f'{kind}/{area}' for area in areas]
  if 'alone' in plain:
    series['alone'] = 'from an area alone', list(plain['alone'])
  for name, (title, keys) in series.items():
    method = name.split('_')[0]
    shown = ['intact', *keys]
    samples = np.stack([arrays[f'{method}/{key}'][rows, 0] for key in shown], axis=1)
    report.draw_grid(
      arrays['items/stimuli'][rows],
      samples,
      folder / f'{name}.png',
      captions=plain['names'][rows],
      title=f'pictures {title}',
      num_columns=1,
      cell=96,  # so that names of unions fit
      labels=[key.split('/')[-1] for key in shown],
    )


def _maps(run: Run, arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
  """Saliency by subject: '<target>/<method>' -> L N V."""
  result = {}
  for _, subject in run.subjects:
    prefix = f'{subject}/'
    result[subject] = {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
  return result


def summarise(plain: Mapping[str, Any]) -> Iterator[str]:
  """An interpretation in words: a line for each lesion with the headline scores, and for each map whose truth is known."""
  for kind, changes in plain.get('lesion', {}).items():
    shown = choose_headline(next(iter(changes.values())))
    yield f'without an area ({KINDS[kind][0]}): change of {", ".join(map(format_label, shown))}'
    for name, scores in changes.items():
      texts = []
      for score in shown:
        entry = scores[score]
        mark = ' *' if entry['p_corrected'] <= 0.05 else ''
        texts.append(f'{entry["difference"]:+.3f} ({entry["interval"][0]:+.3f} to {entry["interval"][1]:+.3f}){mark}')
      yield f'  {name:12} {"   ".join(texts)}'
  for subject, found in plain.get('truth', {}).items():
    level = len(plain['saliency']['noise']) // 2
    yield (
      f'saliency of {subject} against the cortex that made its data, at {100 * plain["saliency"]["noise"][level]:.0f} % noise: '
      "rank correlation with the signal's deviation, chance that a voxel with signal beats one of pure noise"
    )
    for name, levels in found['maps'].items():
      yield f'  {name:20} {_format_agreement(levels[level])}'
    for name, levels in found['shuffled'].items():
      values = [f'{entry["mean"]:.2f}' for key, entry in levels[level].items() if key in SHOWN]
      yield f'  {name + ", shuffled":20} {"   ".join(values)}'
    yield f'{subject}: how far saliency moves when the object moves from left to right, in half widths of the picture'
    for name, levels in found['moved'].items():
      yield f'  {name:20} {_format_interval(levels[level])}'


def _format_agreement(entry: Mapping[str, Any]) -> str:
  return '   '.join(_format_interval(entry[key]) for key in SHOWN if key in entry)


def _format_interval(entry: Mapping[str, Any]) -> str:
  return f'{entry["value"]:+.2f} ({entry["interval"][0]:+.2f} to {entry["interval"][1]:+.2f})'


def _run(config: ConfigDict, workdir: Path) -> None:
  def report_lesions() -> None:
    for line in summarise(interpret(config, workdir, tuple(config.interpret.methods))):
      print(line)

  hosts.on_first(report_lesions)


def _rules(config: ConfigDict) -> dict[str, Rule]:
  return {
    'interpret.methods': Rule(
      lambda x: bool(x) and set(x) <= set(methods.METHODS), f'some of {", ".join(methods.METHODS)}'
    ),
    'interpret.num_items': NOT_NEGATIVE,
    'interpret.num_points': POSITIVE,
    'interpret.batch_size': POSITIVE,
    'interpret.smooth_noise': NOT_NEGATIVE,
    'interpret.seed': NOT_NEGATIVE,
    'interpret.num_bootstrap': Rule(lambda x: x >= 100, '100 or more'),
    'interpret.levels': Rule(
      lambda x: len(x) > 0 and all(0 <= share < 1 for share in x), 'shares of the way, at least 0 and less than 1'
    ),
  }


def _check(config: ConfigDict, stages: tuple[str, ...]) -> None:
  own, sampling = config.interpret, config.reconstruct
  reconstruct.check_sampling(
    config,
    'interpret',
    num_steps=own.num_steps,
    sampler=own.sampler,
    seed=sampling.seed,
    eta=0.0,
    guidance=sampling.guidance,
    num_samples=own.num_samples,
  )


STAGE = StageSpec(
  results.FOLDER,
  after=evaluate.STAGE.name,
  run=_run,
  sources=stage_data.paired_sources,
  rules=_rules,
  check=_check,
)
