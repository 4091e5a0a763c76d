"""The stage interpret: reads a run, asks what in the fMRI made its pictures, and writes interpret/ of the workdir."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from brainjax import hosts
from brainjax.checkpoints import weights_digest
from brainjax.datasets import registry, transforms
from brainjax.datasets.arrays import ArrayDataset
from brainjax.datasets.input_transform import InputTransform
from brainjax.errors import UserError
from brainjax.evaluation import report, test_set
from brainjax.evaluation import stage as evaluate
from brainjax.evaluation.images import Images
from brainjax.evaluation.interpretation import attention, lesions, results, saliency, truth
from brainjax.evaluation.interpretation.areas import Areas
from brainjax.evaluation.networks import classifiers
from brainjax.evaluation.networks.classifiers import Classifier
from brainjax.evaluation.report.labels import choose_headline, format_label
from brainjax.evaluation.score import Judge
from brainjax.reconstruct import Reconstructor
from brainjax.rules import NOT_NEGATIVE, POSITIVE, Rule
from brainjax.sharding import RowMap
from brainjax.stages import common, reconstruct
from brainjax.stages import data as stage_data
from brainjax.stages.registry import StageSpec
from brainjax.trees import flatten

METHODS = ('lesion', 'alone', 'saliency', 'attention')
REPLACEMENTS = ('mean', 'swap')
WORDS = {'mean': 'its training mean in its place', 'swap': 'that of another stimulus in its place'}
ENCODED_AT_ONCE = 32
DRAWN = 12  # items in the pictures beside interpret.json


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
      items: test rows; none: the first `config.interpret.num_items`.

    Raises:
      UserError: weights or data cannot be read; an unknown area or item; weights without an input transform.
    """
    reconstructor = Reconstructor(reconstruct.weights_of(workdir), common.compute_dtype(config))
    test = stage_data.test(config, reconstructor.transforms)
    chosen = np.array(items or range(min(config.interpret.num_items or len(test), len(test))), int)
    if chosen.min() < 0 or chosen.max() >= len(test) or len(np.unique(chosen)) < len(chosen):
      raise UserError(f'items: {", ".join(map(str, chosen))}; expected different numbers from 0 to {len(test) - 1}.')
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
  def names(self) -> list[str]:
    """The areas that every subject has."""
    return [name for name in self.areas[0].masks if all(name in each.masks for each in self.areas)]

  @cached_property
  def train(self) -> ArrayDataset:
    """The training rows with pictures."""
    fitted = self.reconstructor.transforms
    return stage_data.target_rows(self.config, 'train', image_size=self.config.data.image_size, fitted=fitted)

  @cached_property
  def uninformative(self) -> np.ndarray:
    """The mean training response of each row's subject, as model input: N W."""
    train, rows = self.train, []
    for place, subject in enumerate(self.config.data.subjects):
      mean = train.columns['fmri'][train.columns['subject'] == place].mean(axis=0, dtype=np.float64)
      rows.append(_as_test_input(mean, self.reconstructor.transforms[subject]))
    return transforms.fit_width(np.stack(rows), self.reconstructor.num_voxels)[self.subject].astype(np.float32)

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
    first_stage = self.reconstructor.models.first_stage
    encode = RowMap(
      lambda params, x: first_stage.apply({'params': params}, x, method='to_latent'),
      self.reconstructor.params['first_stage'],
      ENCODED_AT_ONCE,
      transforms.to_signed_unit,
    )
    latents = encode(self.train.pictures)
    return {text: latents[has].mean(axis=0) - latents[~has].mean(axis=0)}


def _as_test_input(row: np.ndarray, transform: InputTransform) -> np.ndarray:
  """A training row as test rows come: on the raw scale where the weights treat test rows so."""
  return transform.to_raw_scale(row) if transform.test_raw_scale else row


def interpret(
  config: ConfigDict, workdir: Path, methods: Sequence[str] = METHODS, items: Sequence[int] = ()
) -> dict[str, Any]:
  """Runs methods and writes interpret.json, interpret.npz and a picture for each kind of lesion.

  Args:
    config: of the run, resolved.
    workdir: of the run.
    methods: some of `METHODS`.
    items: test rows, see `Run.open`.

  Returns:
    What interpret.json holds.

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
  parts, arrays = {}, {'items/stimuli': run.test.pictures[run.test.picture_row]}
  for name in methods:
    hosts.log(f'interpret: {name}')
    parts[name], found = RUNNERS[name](run)
    arrays |= {f'{name}/{key}': value for key, value in found.items()}
  if config.simulate.enabled and 'saliency' in parts:
    parts['truth'] = _truth(run, arrays)
  plain, arrays = results.write(workdir, about, parts, arrays)
  _draw(workdir / results.FOLDER, plain, arrays)
  if (workdir / evaluate.REPORT).is_file():
    report.put_brain_section(workdir / evaluate.REPORT, plain, arrays)
  return plain


def _draw(folder: Path, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
  """The first items side by side: stimulus, picture from the whole response, pictures without (or from) each area."""
  rows = slice(DRAWN)
  series = {f'lesion_{kind}': [f'{kind}/{area}' for area in areas] for kind, areas in plain.get('lesion', {}).items()}
  series |= {'alone': list(plain['alone'])} if 'alone' in plain else {}
  for name, keys in series.items():
    method = name.split('_')[0]
    shown = ['intact', *keys]
    samples = np.stack([arrays[f'{method}/{key}'][rows, 0] for key in shown], axis=1)
    report.draw_grid(
      arrays['items/stimuli'][rows],
      samples,
      folder / f'{name}.png',
      captions=plain['names'][rows],
      title={'lesion': 'pictures without an area', 'alone': 'pictures from an area alone'}[method],
      num_columns=1,
      labels=[key.split('/')[-1] for key in shown],
    )


def summarise(plain: Mapping[str, Any]) -> Iterator[str]:
  """The lesions of an interpretation in words: a line each, with the headline scores."""
  for kind, changes in plain.get('lesion', {}).items():
    shown = choose_headline(next(iter(changes.values())))
    yield f'without an area ({WORDS[kind]}): change of {", ".join(map(format_label, shown))}'
    for name, scores in changes.items():
      texts = []
      for score in shown:
        entry = scores[score]
        mark = ' *' if entry['p_corrected'] <= 0.05 else ''
        texts.append(f'{entry["difference"]:+.3f} ({entry["interval"][0]:+.3f} to {entry["interval"][1]:+.3f}){mark}')
      yield f'  {name:12} {"   ".join(texts)}'


def _truth(run: Run, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Of simulated data: how the maps of each subject agree with the cortex that made them."""
  result = {}
  for subject in run.config.data.subjects:
    prefix = f'saliency/{subject}/'
    maps = {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
    result[subject] = truth.describe(run.config, subject, run.reconstructor.transforms[subject].mask, maps)
  return result


def _lesion(run: Run) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Scores and pictures without each area."""
  other = run.fmri[lesions.partners(run.test.columns['stimulus'], run.subject, run.config.interpret.seed)]
  inputs = {'intact': run.fmri}
  for kind, content in zip(REPLACEMENTS, (run.uninformative, other), strict=True):
    inputs |= {f'{kind}/{name}': lesions.replace(run.fmri, content, run.areas, run.subject, name) for name in run.names}
  pictures, scores = lesions.measure(run.sample, run.judge, inputs)
  return {kind: _compare(run, scores, f'{kind}/') for kind in REPLACEMENTS}, pictures


def _alone(run: Run) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
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


def _saliency(run: Run) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Maps of the voxels: '<subject>/<target>/<method>' L N V, and the share of each area."""
  own, options = run.config.interpret, _looking(run)
  classifier = run.classifier if run.classifier and run.classifier.logits else None
  found = saliency.compute(
    run.reconstructor,
    run.fmri,
    run.uninformative,
    directions=run.directions(),
    logits=classifier and classifier.logits,
    logits_params=classifier and classifier.params,
    classes=run.judge.classes[run.judge.stimulus] if classifier else None,
    num_points=own.num_points,
    noise=own.smooth_noise,
    **options,
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
  for place, subject in enumerate(run.config.data.subjects):
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


def _attention(run: Run) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Attention by layer and step, and on areas."""
  if reason := attention.obstacle(run.reconstructor):
    return {'missing': reason}, {}
  found = attention.compute(run.reconstructor, run.fmri, **_looking(run))
  plain = {
    'layers': list(found.layers),
    'resolutions': found.resolutions.tolist(),
    'steps_done': found.steps.tolist(),
    'tokens': found.weights.shape[-1],
    'mean_weights': found.weights.mean(axis=2).tolist(),
    'relative_entropy': found.entropy().tolist(),
    'by_area': {},
  }
  for place, subject in enumerate(run.config.data.subjects):
    shares = found.on_areas(run.areas[place])
    plain['by_area'][subject] = {
      name: value[:, :, run.subject == place].mean(axis=-1).tolist() for name, value in shares.items()
    }
  maps = {f'maps/{name.replace("/", ".")}': value for name, value in found.maps.items()}
  return plain, {'weights': found.weights, 'patches': found.patches, **maps}


def _looking(run: Run) -> dict[str, Any]:
  """Arguments that saliency and attention share."""
  own, sampling = run.config.interpret, run.config.reconstruct
  return {
    'at': tuple(own.levels),
    'num_steps': own.num_steps,
    'sampler': own.sampler,
    'seed': sampling.seed,
    'guidance': sampling.guidance,
    'batch_size': own.batch_size,
  }


RUNNERS: dict[str, Callable[[Run], tuple[dict[str, Any], dict[str, np.ndarray]]]] = {
  'lesion': _lesion,
  'alone': _alone,
  'saliency': _saliency,
  'attention': _attention,
}


def _run(config: ConfigDict, workdir: Path) -> None:
  def report_lesions() -> None:
    for line in summarise(interpret(config, workdir, tuple(config.interpret.methods))):
      print(line)

  hosts.on_first(report_lesions)


def _rules(config: ConfigDict) -> dict[str, Rule]:
  return {
    'interpret.methods': Rule(lambda x: bool(x) and set(x) <= set(METHODS), f'some of {", ".join(METHODS)}'),
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
  'interpret',
  after='evaluate',
  run=_run,
  sources=stage_data.paired_sources,
  rules=_rules,
  check=_check,
)
