"""The methods of the stage interpret: each gives the plain values and the arrays of its part of the result."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from brainjax.evaluation.interpretation import attention, encoding, lesions
from brainjax.evaluation.interpretation.run import Run

Part = tuple[dict[str, Any], dict[str, np.ndarray]]
REPLACEMENTS = ('mean', 'swap')


def obstacle(run: Run, method: str) -> str:
  """Why a method cannot be used; empty if it can."""
  if method in ('lesion', 'alone') and not run.names:
    return 'the data have no ROI that is a part of the model input of all subjects'
  if method == 'attention':
    return attention.obstacle(run.reconstructor)
  return ''


def _lesion(run: Run) -> Part:
  """Scores and pictures without each area."""
  other = run.fmri[lesions.partners(run.test.columns['stimulus'], run.subject, run.config.interpret.seed)]
  inputs = {'intact': run.fmri}
  for kind, content in zip(REPLACEMENTS, (run.uninformative, other), strict=True):
    inputs |= {f'{kind}/{name}': lesions.replace(run.fmri, content, run.areas, run.subject, name) for name in run.names}
  pictures, scores = lesions.measure(run.sample, run.judge, inputs)
  return {kind: _compare(run, scores, f'{kind}/') for kind in REPLACEMENTS}, pictures


def _alone(run: Run) -> Part:
  """Scores and pictures of each area alone; the area 'none' is the training mean everywhere."""
  inputs = {'intact': run.fmri, 'none': run.uninformative}
  for name in run.names:
    inputs[name] = lesions.replace(run.fmri, run.uninformative, run.areas, run.subject, name, keep=True)
  pictures, scores = lesions.measure(run.sample, run.judge, inputs)
  return _compare(run, scores, ''), pictures


def _compare(run: Run, scores: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  changed = {
    name.removeprefix(prefix): each for name, each in scores.items() if name != 'intact' and name.startswith(prefix)
  }
  return lesions.compare(
    scores['intact'], changed, run.judge.stimulus, run.config.interpret.num_bootstrap, run.config.seed
  )


def _saliency(run: Run) -> Part:
  """Maps of the voxels: '<subject>/<target>/<method>' L N V, and the share of each area."""
  classifier = run.classifier if run.classifier and run.classifier.logits else None
  found = run.saliency_of(
    run.fmri,
    run.uninformative,
    run.reconstructor,
    directions=run.directions(),
    logits=classifier and classifier.logits,
    logits_params=classifier and classifier.params,
    classes=run.judge.classes[run.judge.stimulus] if classifier else None,
  )
  total = found.maps['integrated'].sum(axis=-1)
  scale = np.abs(found.change).mean(axis=-1)
  plain: dict[str, Any] = {
    'targets': list(found.targets),
    'steps_done': found.steps.tolist(),
    'noise': found.noise.tolist(),
    # Integrated gradients should sum to the change of the target; how far they are off, level by target.
    'integration_error': (np.abs(total - found.change).mean(axis=-1) / np.where(scale > 0, scale, 1)).tolist(),
    'mean_magnitude': {},
  }
  arrays = {}
  for place, subject in run.subjects:
    rows, areas = run.subject == place, run.areas[place]
    for method, maps in found.maps.items():
      for k, target in enumerate(found.targets):
        voxels = areas.to_voxels(maps[:, k, rows])
        arrays[f'{subject}/{target}/{method}'] = voxels
        mean = np.abs(voxels).mean(axis=1)  # L V
        by_area = areas.mean_by_area(mean / mean.mean(axis=-1, keepdims=True))
        entry = plain['mean_magnitude'].setdefault(subject, {}).setdefault(target, {})
        entry[method] = {name: value.tolist() for name, value in by_area.items()}
  return plain, arrays


def _attention(run: Run) -> Part:
  """Attention by layer and step, and on areas."""
  found = attention.compute(run.reconstructor, run.fmri, **run.looking)
  plain = {
    'layers': list(found.layers),
    'resolutions': found.resolutions.tolist(),
    'steps_done': found.steps.tolist(),
    'tokens': found.weights.shape[-1],
    'mean_weights': found.weights.mean(axis=2).tolist(),
    'relative_entropy': found.entropy().tolist(),
    'by_area': {},
  }
  for place, subject in run.subjects:
    shares = found.on_areas(run.areas[place])
    plain['by_area'][subject] = {
      name: value[:, :, run.subject == place].mean(axis=-1).tolist() for name, value in shares.items()
    }
  maps = {f'maps/{name.replace("/", ".")}': value for name, value in found.maps.items()}
  return plain, {'weights': found.weights, 'patches': found.patches, **maps}


def _encoding(run: Run) -> Part:
  """Accuracy of encoding models in each voxel: '<subject>/<features>' V, and its mean in each area."""
  plain: dict[str, Any] = {'num_stimuli': {}, 'penalty': {}, 'mean': {}}
  arrays = {}
  for place, subject in run.subjects:
    for name, found in encoding.compute(run, place).items():
      arrays[f'{subject}/{name}'] = found.accuracy
      plain['num_stimuli'][subject] = found.num_stimuli
      plain['penalty'].setdefault(subject, {})[name] = found.penalty
      means = {area: float(np.nanmean(found.accuracy[mask])) for area, mask in run.areas[place].masks.items()}
      plain['mean'].setdefault(subject, {})[name] = means
  return plain, arrays


RUNNERS: dict[str, Callable[[Run], Part]] = {
  'lesion': _lesion,
  'alone': _alone,
  'saliency': _saliency,
  'attention': _attention,
  'encoding': _encoding,
}
METHODS = tuple(RUNNERS)
