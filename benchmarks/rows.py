"""The rows of the speed table: what each computes, at which size, and the PyTorch versions that it is compared with."""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import god_sbj3, tiny

VOXELS, QUICK_VOXELS = 4192, 80  # of the published weights; of configs/tiny.py
PLMS_STEPS, SAMPLES = 250, 5

# PyTorch versions of the same computation.
PEERS = {
  'released': 'eager, as the published code does it',
  'engineer': 'eager, as a good engineer writes it',
  'compile': 'the same under torch.compile',
}


class Row(NamedTuple):
  """A row of the table.

  Attributes:
    name: key of TITLES: what is computed.
    batch: samples, or the size of a product or copy.
    peers: keys of PEERS.
    goal: peer -> largest ratio of our time to that peer's, on the device of the table.
    voxels: width of the fMRI; 0: VOXELS.
  """

  name: str
  batch: int
  peers: tuple[str, ...]
  goal: dict[str, float]
  voxels: int = 0

  @property
  def key(self) -> str:
    """Name of the row in --rows and in the JSON."""
    return f'{self.name}-{self.batch}' + (f'-{self.voxels}' if self.voxels else '')

  @property
  def stage(self) -> str:
    """Section of the config, for rows that are a training step."""
    return 'diffuse' if self.name == 'cached' else self.name


STEPS = ('contrast', 'attend', 'diffuse', 'cached')  # names of rows that are a training step
TRAINING = ('released', 'engineer', 'compile')
FORWARD = ('engineer', 'compile')
TITLES = {
  'matmul': 'matrix product {0} x {0} (the peak)',
  'copy': 'adding to {0} MiB in place (the bandwidth)',
  'contrast': 'contrast step, batch {0}',
  'attend': 'attend step, batch {0}',
  'diffuse': 'diffuse step, batch {0}',
  'cached': 'diffuse step with cached latents, batch {0}',
  'unet': 'UNet forward, batch {0}',
  'encode': 'VQ encode, batch {0}',
  'decode': 'VQ decode, batch {0}',
  'sample': 'PLMS 250 steps, {0} pictures',
  'loader': 'loader, batch {0}',
  'start': 'start-up to the first step, {1}',
}


def title(row: Row) -> str:
  """Returns the row's title in the table."""
  text = TITLES[row.name].format(row.batch, ('cold cache', 'warm cache')[min(row.batch, 1)])
  return text + (f', {row.voxels} voxels' if row.voxels else '')


def rows(device: str, quick: bool) -> list[Row]:
  """Returns all rows for 'cpu' or 'gpu'. Quick rows are few, tiny and without torch.compile."""
  if quick:
    table = [Row('matmul', 256, ('engineer',), {}), Row('copy', 4, ('engineer',), {})]
    table += [Row(name, 2, TRAINING[:2], {}) for name in STEPS]
    table += [Row(name, 2, FORWARD[:1], {}) for name in ('unet', 'encode', 'decode', 'sample')]
    return [*table, Row('loader', 16, ('engineer',), {}), Row('start', 0, (), {}), Row('start', 1, (), {})]
  gpu = device == 'gpu'
  half, third = {'released': 0.5, 'engineer': 0.5}, {'released': 1 / 3, 'engineer': 1 / 3}
  most = {'released': 0.8, 'engineer': 0.8}
  table = [
    Row('matmul', 16384 if gpu else 4096, ('engineer',), {}),
    Row('copy', 4096 if gpu else 1024, ('engineer',), {}),
  ]
  table += [Row('contrast', 250 if gpu else 8, TRAINING, half if gpu else most)]
  table += [Row('attend', batch, TRAINING, half if gpu else most) for batch in ((4, 32) if gpu else (4,))]
  goal = third if gpu else {'released': 0.5, 'engineer': 0.8}
  table += [
    Row('diffuse', batch, TRAINING if batch in (1, 8) else TRAINING[:2], goal) for batch in ((8, 32) if gpu else (1, 2))
  ]
  table += [
    Row('cached', 32 if gpu else 2, TRAINING[:2], {'engineer': goal['engineer']})
  ]  # the released code has no cache
  table += [Row('unet', 2, FORWARD, {}), *(Row(name, 2, FORWARD[:1], {}) for name in ('encode', 'decode'))]
  goal = {'engineer': 0.25 if gpu else 1.0}
  table += [
    Row('sample', batch, FORWARD[:1], goal) for batch in ((SAMPLES, 8 * SAMPLES, 50 * SAMPLES) if gpu else (SAMPLES,))
  ]
  return [*table, Row('loader', 250, ('engineer',), {}), Row('start', 0, (), {}), Row('start', 1, (), {})]


def config(quick: bool) -> ConfigDict:
  """Returns the config of the published sizes, or of sizes like those of configs/tiny.py, with random weights."""
  chosen = tiny.get_config() if quick else god_sbj3.get_config()
  if quick:  # as little to compile as possible
    chosen.data.image_size = 16
    chosen.first_stage.ch_mult = (1,)
    chosen.unet.update({'channel_mult': (1,), 'attention_resolutions': (1,)})
  chosen.remat = 'cheap'  # these batches fit into memory
  chosen.attend.random_init = chosen.diffuse.random_init = True
  chosen.attend.image_init_from = chosen.diffuse.prior_init_from = ''
  return chosen


def voxels(row: Row, quick: bool) -> int:
  """The fMRI width of a row."""
  return row.voxels or (QUICK_VOXELS if quick else VOXELS)
