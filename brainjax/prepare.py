"""Command: raw files of a data set -> TFDS data sets of ArrayRecord files.

python -m brainjax.prepare god --raw=data/Kamitani [--out=data/prepared] [--subjects=sbj_1,sbj_3]
python -m brainjax.prepare hcp --raw=data/HCP
python -m brainjax.prepare own --betas=betas.npy --events=events.tsv --images=pictures
python -m brainjax.prepare check data/prepared
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from brainjax.datasets import bold5000, bold5000_raw, god, god_bdata, god_raw, hcp, hcp_cifti, overview, own, own_raw
from brainjax.errors import ArgumentParser, UserError, command_line

MESSAGES = {
  'kept': 'is prepared already, raw files unchanged',
  'built': 'prepared',
  'rebuilt': 'prepared again, because raw files changed: {}',
}
NPZ = 'npz'  # folder below --out where files of the published .npz formats are made from original ones


def _hcp(args: argparse.Namespace) -> dict:
  raw_folder, out = Path(args.raw), Path(args.out)
  if not raw_folder.is_dir():
    raise UserError(f'{raw_folder}: no such folder; expected that of the HCP subjects (see data/README.md)')
  if not hcp_cifti.has_files(raw_folder):
    return {'hcp': hcp.prepare(raw_folder, out)}
  summary = hcp_cifti.prepare(raw_folder, out / NPZ, args.runs.split(','), args.workers)
  print('\n'.join(summary.lines()))
  return {'hcp': hcp.prepare(out / NPZ, out)}


def _god(args: argparse.Namespace) -> dict:
  folder, subjects = Path(args.raw), _subjects(args)
  if god_bdata.subjects_in(folder):
    pictures = Path(args.images) if args.images else folder / 'images'
    written = god_bdata.prepare(folder, pictures, Path(args.out) / NPZ, subjects)
    print(f'npz: {", ".join(written) or "nothing new"}')
    folder = Path(args.out) / NPZ
  return _by_subject('god', god.prepare(folder, args.out, subjects))


def _bold5000(args: argparse.Namespace) -> dict:
  return _by_subject('bold5000', bold5000.prepare(args.raw, args.out, _subjects(args)))


def _own(args: argparse.Namespace) -> dict:
  masks = tuple(Path(mask) for mask in args.mask.split(',')) if args.mask else ()
  source = own_raw.Source(Path(args.betas), Path(args.events), Path(args.images), masks)
  return {f'own/{args.subject}': own.prepare(source, args.out, args.subject)}


def _check(args: argparse.Namespace) -> dict:
  folder, pages = Path(args.folder), Path(args.pages or args.folder)
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder; give one of raw or of prepared data')
  with contextlib.ExitStack() as stack:
    found = overview.find(folder)
    if not found:
      run = next((run for run, is_here in RAW_KINDS if is_here(folder)), None)
      if run is None:
        raise UserError(f'{folder}: neither prepared data nor raw files of HCP, GOD or BOLD5000 found there')
      print('raw files: prepared into a temporary folder first')
      prepared = stack.enter_context(tempfile.TemporaryDirectory(prefix='brainjax_check_'))
      options = {'raw': folder, 'out': prepared, 'subjects': None, 'images': None, 'workers': None}
      run(argparse.Namespace(**options, runs=','.join(hcp_cifti.RUNS)))
      found = overview.find(Path(prepared))
    for name, folders in found.items():
      subjects = overview.look(name, folders)
      print('\n'.join(overview.lines(name, subjects)))
      page = pages / f'check_{name}.png'
      try:
        overview.draw(name, subjects, page)
      except OSError as error:
        raise UserError(f'{page}: cannot be written ({error.strerror}); choose another folder with --pages') from None
      print(f'  drawn in {page}')
  return {}


RAW_KINDS = (
  (
    _god,
    lambda folder: (
      bool(god_bdata.subjects_in(folder)) or any((folder / place / god_raw.IMAGES).is_file() for place in ('', 'npz'))
    ),
  ),
  (_bold5000, lambda folder: (folder / bold5000_raw.BETAS).is_dir()),
  (
    _hcp,
    lambda folder: (
      any(any(folder.glob(f'{place}*/{hcp_cifti.FILE}')) for place in ('', 'npz/')) or hcp_cifti.has_files(folder)
    ),
  ),
)


def _subjects(args: argparse.Namespace) -> list[str] | None:
  return args.subjects.split(',') if args.subjects else None


def _by_subject(name: str, done: dict) -> dict:
  return {f'{name}/{subject}': result for subject, result in done.items()}


def _parser() -> ArgumentParser:
  parser = ArgumentParser(prog='python -m brainjax.prepare', description='Raw files -> TFDS (ArrayRecord).')
  commands = parser.add_subparsers(dest='dataset', required=True)

  def command(name, run, text, raw='folder of the raw files'):
    made = commands.add_parser(name, help=text, description=text)
    made.set_defaults(run=run)
    if raw:
      made.add_argument('--raw', required=True, help=raw)
    made.add_argument('--out', default='data/prepared', help='folder of all prepared data sets; default: data/prepared')
    return made

  made = command('hcp', _hcp, 'HCP resting state: .dtseries.nii files, or one .npz a subject')
  made.add_argument('--runs', default=','.join(hcp_cifti.RUNS), help='of the CIFTI files; the paper used REST1_LR')
  made.add_argument('--workers', type=int, help='processes that read CIFTI files; each needs about 1 GB')
  for name, run, text in (
    ('god', _god, 'Generic Object Decoding: published .npz folder, or SubjectN.h5 of the Kamitani lab'),
    ('bold5000', _bold5000, 'BOLD5000: GLMsingle ROI betas, presentation lists and stimuli'),
  ):
    made = command(name, run, text)
    made.add_argument('--subjects', help='comma-separated names; default: all that are there')
    if name == 'god':
      made.add_argument('--images', help='with SubjectN.h5: folder of the stimulus pictures; default: RAW/images')
  made = command('own', _own, 'your own fMRI of pictures, see docs/your_data.md', raw=None)
  made.add_argument('--betas', required=True, help='.npy (trials, voxels), or 4-D .nii/.nii.gz')
  made.add_argument('--events', required=True, help='.tsv, one row a trial: image, split (train or test), category')
  made.add_argument('--images', required=True, help='folder of the pictures')
  made.add_argument('--mask', help='one or more, comma-separated; each is an ROI named like its file')
  made.add_argument('--subject', default='sub-01', help='name of the subject; default: sub-01')
  made = commands.add_parser('check', help='looks over a folder of raw or prepared data: facts, and a page of pictures')
  made.set_defaults(run=_check)
  made.add_argument('folder', help='folder of raw or prepared data')
  made.add_argument('--pages', help='folder for check_<data set>.png; default: the same folder')
  return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
  """Prepares one data set and says what was done; exit status 0, or 2 after a user's mistake."""
  args = _parser().parse_args(argv)
  for name, (status, changed) in args.run(args).items():
    print(f'{name}: {MESSAGES[status].format(", ".join(changed[:5]))}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
