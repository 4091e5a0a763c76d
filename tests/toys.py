"""A data set and a stage that the package does not know: what a user adds with `config.plugins`."""

import jax.numpy as jnp
import numpy as np

from brainjax.datasets import checks, paired, registry
from brainjax.rules import POSITIVE
from brainjax.stages import common
from brainjax.stages import data as stage_data
from brainjax.stages.registry import StageSpec, register

TRAIN, TEST = [f'a{i}' for i in range(9)], [f'b{i}' for i in range(3)]


class Toy(paired.Builder):
  """Seven voxels; picture i is grey of level 20 i."""

  DESCRIPTION, HOMEPAGE, CITATION, LICENSE = 'fMRI of toys.', 'https://example.org', '@misc{toy}', 'CC0'

  @classmethod
  def subjects_in(cls, raw_dir):
    return [path.stem for path in sorted(raw_dir.glob('*.npy'))]

  def raw_files(self, raw_dir):
    return {f'{self.subject}.npy': raw_dir / f'{self.subject}.npy'}

  def read(self, raw_dir):
    names = [*TRAIN, *TEST]
    return paired.Trials(
      fmri=np.load(raw_dir / f'{self.subject}.npy'),
      names=names,
      rois={'VC': np.arange(7) < 6},
      train=TRAIN,
      test=TEST,
      picture=lambda name: np.full((8, 8, 3), 20 * names.index(name), np.uint8),
      label=lambda name: paired.Label(names.index(name), '', name),
    )


def check(source):
  """What `prepare check` reports: what it does of all data with pictures, and a fact of toys."""
  subject = checks.check_pictures(source, 'voxel')
  subject.facts.append('toys are grey')
  return [subject]


registry.register(
  registry.DataSet('toy', 'A toy', Toy, has_raw=lambda raw: any(raw.glob('*.npy')), raw_field='toy', check=check)
)


def make(config, mesh):
  """Learns the mean grey level from fMRI by a linear layer."""
  del mesh
  data = stage_data.paired(config, 'linear', 8)

  def loss(params, batch, key):
    del key
    error = (batch['fmri'] @ params['w'] + params['b'] - batch['image'].mean((1, 2, 3))) ** 2
    grey_error = jnp.sum(jnp.sqrt(error) * batch['weight']) / batch['weight'].sum()
    return jnp.sum(error * batch['weight']) / batch['weight'].sum(), {'grey_error': grey_error}

  return common.training(
    config,
    'linear',
    data,
    init=lambda key: {'w': jnp.zeros(data.num_voxels), 'b': jnp.zeros(())},
    loss=loss,
    trainable='',
    models={},
  )


register(
  StageSpec(
    'linear',
    make=make,
    sources=stage_data.paired_sources,
    train_rows=stage_data.train_rows,
    rules=lambda config: {'linear.gain': POSITIVE},
    curves={'grey_error': 'distance of predicted and real grey'},
  )
)
