"""Command: writes simulated GOD, MOSAIC, HCP and NSD data in the real file formats, with a note of the parameters."""

import concurrent.futures
import dataclasses
import json
import sys
import time
from pathlib import Path

from brainjax import files, hosts
from brainjax.datasets import glasser, neuroimaging
from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.progress import progress
from brainjax.raw_layout import GOD_CLASS_INDEX, GOD_IMAGES, GOD_LABELS, HCP_FILE, MIND_EYE_BETAS, MIND_EYE_SHARED
from brainjax.simulator import cortex, god, hcp, mosaic, nsd, stimuli, vision

METADATA = 'simulation.json'
GOD_FOLDER = Path('Kamitani', 'npz')
HCP_FOLDER = Path('HCP', 'npz')
MOSAIC_FOLDER, NSD_FOLDER, MIND_EYE_FOLDER = Path('MOSAIC'), Path('NSD'), Path('MindEye2')
_MIN_VOXELS = 70
NOISE = {  # at least, less than
  'median_explainable_variance': (0.001, 0.9),
  'explainable_variance_spread': (0.0, 3.0),
  'pure_noise_fraction': (0.0, 0.5),
  'shared_noise_fraction': (0.0, 1.0),
  'session_drift': (0.0, 3.0),
}
NEWER = ('subject_jitter', 'session_drift')
_FORMAT = 1  # raise it when the same parameters give other data


def simulate(
  out: str | Path,
  voxels: int | None = None,
  subjects: int = len(god.SUBJECT_VOXELS),
  hcp_subjects: int = 8,
  seed: int = 0,
  image_size: int = 256,
  workers: int = 1,
  subject_jitter: float = 1.0,
  nsd_subjects: int = 0,
  nsd_sessions: int = 2,
  mosaic_subjects: int = 0,
  mosaic_trials: int = 150,
  mosaic_repetitions: int = 10,
  **noise: float,
) -> bool:
  """Writes `out`/Kamitani/npz (or `out`/MOSAIC), `out`/HCP/npz and `out`/simulation.json; returns whether a file was missing.

  With `nsd_subjects` also `out`/NSD, in the format of the Natural Scenes Dataset, and `out`/MindEye2, the files made from it.

  Args:
    out: folder; missing files of this simulation are added, files of another one are not touched.
    voxels: of every subject; None for the real numbers (`god.SUBJECT_VOXELS`, `hcp.NUM_VOXELS`, `nsd.NUM_VOXELS`). With
      MOSAIC the areas have the vertices of their parcels instead.
    subjects: GOD subjects, 1 to 5; 0 with `mosaic_subjects`.
    hcp_subjects: resting-state subjects, 0 or more.
    seed: of cortices, noise and picture instances; the categories are always the same.
    image_size: side of the pictures in pixels, a multiple of 64; the real files have 256.
    workers: subjects to simulate at a time, in threads of about 0.3 GB each at real size.
    subject_jitter: see `cortex.CortexConfig`.
    nsd_subjects: NSD subjects, 0 or more; the files need h5py and nibabel.
    nsd_sessions: sessions of 750 trials of each, 1 to 40.
    mosaic_subjects: of MOSAIC in place of GOD; those of HCP then have the same vertices of V1 to V4.
    mosaic_trials: training trials of each of them, 1 to 1,200, of as many pictures.
    mosaic_repetitions: of each of their 50 test pictures.
    **noise: the fields of `cortex.CortexConfig` in NOISE; defaults as there.

  Raises:
    UserError: a number is out of range; `out` is a file or has other data in it.
  """
  limit = len(god.SUBJECT_VOXELS)
  if not mosaic_subjects and not 1 <= subjects <= limit or mosaic_subjects and subjects:
    raise UserError(f'subjects: found {subjects}, expected 1 to {limit}, as in GOD, or 0 together with mosaic_subjects')
  if not 1 <= mosaic_trials <= (most := stimuli.NUM_TRAIN * god.IMAGES_PER_CATEGORY):
    raise UserError(f'mosaic_trials: found {mosaic_trials}, expected 1 to {most}')
  if voxels is not None and voxels < _MIN_VOXELS:
    raise UserError(f'voxels: found {voxels}, expected at least {_MIN_VOXELS}, so that every area has some')
  if image_size < vision.IMAGE_SIZE or image_size % vision.IMAGE_SIZE:
    raise UserError(f'image_size: found {image_size}, expected a multiple of {vision.IMAGE_SIZE}')
  lower = {'hcp_subjects': (hcp_subjects, 0), 'seed': (seed, 0), 'workers': (workers, 1)}
  lower |= {'mosaic_subjects': (mosaic_subjects, 0), 'mosaic_repetitions': (mosaic_repetitions, 1)}
  lower |= {'nsd_subjects': (nsd_subjects, 0), 'nsd_sessions': (nsd_sessions, 1)}
  for name, (value, least) in lower.items():
    if value < least:
      raise UserError(f'{name}: found {value}, expected at least {least}')
  for name, value, most in (('nsd_subjects', nsd_subjects, 8), ('nsd_sessions', nsd_sessions, 40)):
    if value > most:
      raise UserError(f'{name}: found {value}, expected at most {most}, as in NSD')
  for name, value in noise.items():
    least, below = NOISE[name]
    if not least <= value < below:
      raise UserError(f'{name}: found {value}, expected at least {least} and less than {below}')
  if not 0 <= subject_jitter <= 1:
    raise UserError(f'subject_jitter: found {subject_jitter}, expected 0 to 1')
  if voxels is None and subject_jitter < 1 and not mosaic_subjects:
    raise UserError(
      f'subject_jitter: found {subject_jitter} without voxels. Subjects share vertices only if all have as many; '
      'give the number of voxels'
    )
  options = {'subject_jitter': subject_jitter, **noise}
  god_voxels = [voxels or god.SUBJECT_VOXELS[i] for i in range(subjects)]
  hcp_voxels = voxels or hcp.NUM_VOXELS
  hcp_config = cortex.CortexConfig(num_voxels=hcp_voxels, **options)
  if mosaic_subjects:
    neuroimaging.need('h5py')
    columns = glasser.columns([parcel for parcels in mosaic.PARCELS.values() for parcel in parcels])
    mosaic_config, places = mosaic.configure(columns, cortex.CortexConfig(**options))
    hcp_config = mosaic_config
    if subject_jitter == 1:  # V1 to V4 are all of it
      hcp_config = dataclasses.replace(mosaic_config, num_voxels=sum(len(columns[area]) for area in cortex.EARLY))
    hcp_voxels = hcp_config.num_voxels
  parameters = {
    'format': _FORMAT,
    'seed': seed,
    'image_size': image_size,
    'god_voxels': god_voxels,
    'hcp_subjects': hcp_subjects,
    'hcp_voxels': hcp_voxels,
    'cortex': _described(cortex.CortexConfig(**options)),
  }
  if nsd_subjects:  # left out otherwise: earlier versions made the same data without them
    for package in ('h5py', 'nibabel'):
      nsd.need(package)
    nsd_voxels = voxels or nsd.NUM_VOXELS
    parameters |= {'nsd_subjects': nsd_subjects, 'nsd_sessions': nsd_sessions, 'nsd_voxels': nsd_voxels}
  if mosaic_subjects:
    parameters['mosaic'] = [mosaic_subjects, mosaic_trials, mosaic_repetitions]
  out = Path(out)
  _claim(out, parameters)

  god_folder, hcp_folder = out / GOD_FOLDER, out / HCP_FOLDER
  picture_files = [GOD_CLASS_INDEX, *GOD_LABELS.values(), GOD_IMAGES]
  want_pictures = subjects and not all((god_folder / name).exists() for name in picture_files)
  want_god = [n for n in range(1, subjects + 1) if not (god_folder / god.subject_file(n)).exists()]
  want_hcp = [n for n in range(1, hcp_subjects + 1) if not (hcp_folder / hcp.subject_file(n)).exists()]
  made_nsd = False
  if nsd_subjects:
    config = cortex.CortexConfig(num_voxels=nsd_voxels, **options)
    made_nsd = _simulate_nsd(out, nsd_subjects, nsd_sessions, config, seed, image_size)
  mosaic_folder = out / MOSAIC_FOLDER
  want_lists = mosaic_subjects and not (mosaic_folder / 'test.json').exists()  # the last file of them
  betas = {n: mosaic_folder / mosaic.BETAS / f'{mosaic.subject_name(n)}.hdf5' for n in range(1, mosaic_subjects + 1)}
  want_mosaic = [n for n, path in betas.items() if not path.exists()]
  if not (want_pictures or want_god or want_hcp or want_lists or want_mosaic):
    return made_nsd

  # One step of the bar is a picture, or as many voxels as take about as long.
  num_pictures = stimuli.NUM_TRAIN * god.IMAGES_PER_CATEGORY + stimuli.NUM_TEST
  god_steps, hcp_steps = [god_voxels[n - 1] // 20 for n in want_god], hcp_voxels // 40
  mosaic_steps = 300
  draws = bool(want_pictures or want_god or want_lists or want_mosaic)
  total = draws * num_pictures + sum(god_steps) + hcp_steps * len(want_hcp) + mosaic_steps * len(want_mosaic)
  bar = progress(total, 'simulate')
  with bar, concurrent.futures.ThreadPoolExecutor(workers) as pool:
    jobs = {}
    vision.reference_features()  # all subjects need them: computed before the threads start
    if draws:
      shown = god.pictures(seed, image_size, bar.update)
      features = shown.features()
      if want_pictures:
        god.write_pictures(god_folder, shown)
      if want_lists:
        mosaic.write_lists(mosaic_folder, shown, seed, mosaic_subjects, mosaic_trials, mosaic_repetitions)
      for number in want_mosaic:
        sizes = mosaic_trials, mosaic_repetitions
        job = mosaic_folder, number, mosaic_config, places, seed, shown, features, *sizes
        jobs[pool.submit(mosaic.write_subject, *job)] = mosaic_steps
      num_train = shown.num_train
      del shown  # a quarter of a gigabyte
      for number, steps in zip(want_god, god_steps, strict=True):
        config = cortex.CortexConfig(num_voxels=god_voxels[number - 1], **options)
        jobs[pool.submit(god.write_subject, god_folder, number, config, seed, features, num_train)] = steps
    for number in want_hcp:
      jobs[pool.submit(hcp.write_subject, hcp_folder, number, hcp_config, seed)] = hcp_steps
    try:
      for job in concurrent.futures.as_completed(jobs):
        job.result()
        bar.update(jobs[job])
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  return True


def _simulate_nsd(
  out: Path, subjects: int, sessions: int, config: cortex.CortexConfig, seed: int, image_size: int
) -> bool:
  """Writes what is missing of NSD and MindEye2; returns whether something was."""
  real, mind_eye = out / NSD_FOLDER, out / MIND_EYE_FOLDER
  # Each of these files is written last.
  want_shared = not (mind_eye / MIND_EYE_SHARED).exists()
  wanted = [n for n in range(1, subjects + 1) if not (mind_eye / MIND_EYE_BETAS.format(nsd.subject_name(n))).exists()]
  if not (want_shared or wanted):
    return False
  shown = nsd.make_experiment(subjects, sessions, seed, image_size)
  if want_shared:
    nsd.write_shared(real, mind_eye, shown)
  for number in progress(len(wanted), 'simulate NSD', steps=wanted, unit='subjects'):
    nsd.write_subject(real, mind_eye, number, config, seed, shown)
  return True


def _described(config: cortex.CortexConfig) -> dict:
  """What decides the data. Newer fields are left out at their defaults: earlier versions made the same data without them."""
  newer = {field.name: field.default for field in dataclasses.fields(config) if field.name in NEWER}
  values = dataclasses.asdict(config)
  return {k: v for k, v in values.items() if k != 'num_voxels' and not (k in newer and v == newer[k])}


def _claim(out: Path, parameters: dict) -> None:
  """Marks `out` as the folder of this simulation; raises a `UserError` if other data are there."""
  note = out / METADATA
  if out.exists() and not out.is_dir():
    raise UserError(f'{out} is a file; expected a folder, or nothing. Choose another --out')
  if note.exists():
    try:
      existing = json.loads(note.read_text())['settings']
    except (ValueError, KeyError, TypeError):
      raise UserError(f'{note} is not the note of a simulation. Choose another --out or remove the folder') from None
    wanted = json.loads(json.dumps(parameters))
    if existing != wanted:
      keys = [key for key in wanted if not isinstance(existing, dict) or existing.get(key) != wanted[key]] or ['format']
      raise UserError(
        f'{out} holds another simulation (it differs in {", ".join(keys)}). Choose another --out or remove it'
      )
    return
  for folder in (GOD_FOLDER.parts[0], HCP_FOLDER.parts[0], MOSAIC_FOLDER, NSD_FOLDER, MIND_EYE_FOLDER):
    if (out / folder).exists():
      raise UserError(f'{out / folder} exists without {METADATA}, so it is not simulated. Choose another --out')
  categories = stimuli.categories()
  described = {
    'made_by': 'brainjax simulate',
    'settings': parameters,
    'files': {
      str(GOD_FOLDER / 'sbj_<k>.npz'): 'arr_0 single training trials; arr_1 test trials, row = 35 * picture + run; '
      'arr_2 mean of the 35 runs; arr_3 image of each training row; boolean masks of the areas',
      str(MOSAIC_FOLDER): 'with --mosaic_subjects, in place of GOD: the format of MOSAIC',
      str(HCP_FOLDER / '<subject>' / HCP_FILE): 'V1 to V4: resting-state frames by voxels, z-scored over time',
    },
    'attributes': stimuli.ATTRIBUTES,
    'categories': [
      {'id': wordnet_id, 'name': name, 'attributes': row}
      for wordnet_id, name, row in zip(
        categories.wordnet_ids, categories.names, categories.attributes.tolist(), strict=True
      )
    ],
    'test_categories': [stimuli.NUM_TRAIN, stimuli.NUM_TRAIN + stimuli.NUM_TEST],
  }
  with files.atomic_write(note) as path:
    path.write_text(json.dumps(described, indent=1))


@command_line
def main(argv: list[str] | None = None) -> None:
  """Parses the command line and runs the simulation.

  Raises:
    UserError: an option is wrong, or as `simulate`.
  """
  parser = ArgumentParser(prog='brainjax simulate', description=__doc__)
  parser.add_argument(
    '--out', required=True, help='folder to write; Kamitani/npz (or MOSAIC) and HCP/npz will be in it'
  )
  parser.add_argument('--voxels', type=int, help='voxels of every subject; default: the real numbers, 4133 to 4643')
  parser.add_argument(
    '--subjects', type=int, default=5, help='GOD subjects, 1 to 5 (default 5); 0 with --mosaic_subjects'
  )
  parser.add_argument(
    '--mosaic_subjects', type=int, default=0, help='subjects in the format of MOSAIC, in place of GOD'
  )
  parser.add_argument('--mosaic_trials', type=int, default=150, help='training trials of each of them (default 150)')
  parser.add_argument(
    '--subject_jitter', type=float, default=1.0, help='0: all have one cortex, 1: each its own (default 1)'
  )
  parser.add_argument('--hcp_subjects', type=int, default=8, help='resting-state subjects (default 8)')
  parser.add_argument('--seed', type=int, default=0, help='of cortices, noise and picture instances (default 0)')
  parser.add_argument('--image_size', type=int, default=256, help='pixels, a multiple of 64 (default 256, as the real)')
  parser.add_argument('--workers', type=int, default=1, help='subjects simulated at a time (default 1)')
  parser.add_argument('--nsd_subjects', type=int, default=0, help='subjects of NSD, in NSD/ and MindEye2/ (default 0)')
  parser.add_argument('--nsd_sessions', type=int, default=2, help='sessions of 750 trials of each of them (default 2)')
  options = vars(parser.parse_args(argv))
  start = time.time()
  if simulate(**options):
    hosts.log(f'{options["out"]}: written in {time.time() - start:.0f} s')
  else:
    hosts.log(f'{options["out"]}: complete, nothing to do')


if __name__ == '__main__':
  sys.exit(main())
