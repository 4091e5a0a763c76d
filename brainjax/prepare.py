"""Command: raw files of a data set -> TFDS data sets of ArrayRecord files.

python -m brainjax.prepare god --raw=data/Kamitani [--out=data/prepared] [--subjects=sbj_1,sbj_3]
python -m brainjax.prepare hcp --raw=data/HCP
python -m brainjax.prepare own --betas=betas.npy --events=events.tsv --images=pictures
python -m brainjax.prepare check data/prepared
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from brainjax.datasets import (
  bold5000,
  bold5000_raw,
  god,
  god_bdata,
  god_raw,
  hcp,
  hcp_cifti,
  overview,
  own,
  own_raw,
  store,
)
from brainjax.errors import ArgumentParser, UserError, command_line

MESSAGES = {
  'kept': 'is prepared already, raw files unchanged',
  'built': 'prepared',
  'rebuilt': 'prepared again, because raw files changed: {}',
}
NPZ = 'npz'  # folder below --out where files of the published .npz formats are made from original ones
Done = dict[str, tuple[str, list[str]]]  # data set -> key of MESSAGES, names of changed raw files


def prepare_hcp(
  raw: str | os.PathLike, out: str | os.PathLike, runs: Sequence[str] = hcp_cifti.RUNS, workers: int | None = None
) -> Done:
  """HCP from .npz files, or from CIFTI files (their `runs`, by so many processes), which are converted first."""
  raw, out = Path(raw), Path(out)
  if not raw.is_dir():
    raise UserError(f'{raw}: no such folder; expected that of the HCP subjects (see data/README.md)')
  hcp_cifti.check_runs(runs)
  if workers is not None and workers < 1:
    raise UserError(f'--workers={workers}; expected 1 or more')
  if not hcp_cifti.has_files(raw):
    return {'hcp': hcp.prepare(raw, out)}
  summary = hcp_cifti.prepare(raw, out / NPZ, runs, workers)
  print('\n'.join(summary.lines()))
  return {'hcp': hcp.prepare(out / NPZ, out)}


def prepare_god(
  raw: str | os.PathLike, out: str | os.PathLike, subjects: Sequence[str] | None = None, images: str | None = None
) -> Done:
  """GOD from the published .npz files, or from SubjectN.h5 with a folder of `images` (default: `raw`/images)."""
  folder = Path(raw)
  if god_bdata.subjects_in(folder):
    pictures = Path(images) if images else folder / 'images'
    written = god_bdata.prepare(folder, pictures, Path(out) / NPZ, subjects)
    print(f'npz: {", ".join(written) or "nothing new"}')
    folder = Path(out) / NPZ
  return {f'god/{name}': done for name, done in god.prepare(folder, out, subjects).items()}


def prepare_bold5000(raw: str | os.PathLike, out: str | os.PathLike, subjects: Sequence[str] | None = None) -> Done:
  """BOLD5000 from the files of its release."""
  return {f'bold5000/{name}': done for name, done in bold5000.prepare(raw, out, subjects).items()}


class Kind(NamedTuple):
  """A data set with raw files of its own.

  Attributes:
    prepare: `prepare_hcp`, ...
    has_raw: whether a folder holds raw files of it.
    by_command: whether their conversion takes options that a run does not have.
    builder: (prepared data, subject) -> builder.
  """

  prepare: Callable[..., Done]
  has_raw: Callable[[Path], bool]
  by_command: Callable[[Path], bool]
  builder: Callable[[str, str], store.Builder]


KINDS = {
  'god': Kind(
    prepare_god,
    lambda folder: (
      bool(god_bdata.subjects_in(folder)) or any((folder / place / god_raw.IMAGES).is_file() for place in ('', 'npz'))
    ),
    lambda folder: bool(god_bdata.subjects_in(folder)) and not (folder / 'images').is_dir(),  # --images
    god.God.of,
  ),
  'bold5000': Kind(
    prepare_bold5000,
    lambda folder: (folder / bold5000_raw.BETAS).is_dir(),
    lambda folder: False,
    bold5000.Bold5000.of,
  ),
  'hcp': Kind(
    prepare_hcp,
    lambda folder: (
      any(any(folder.glob(f'{place}*/{hcp_cifti.FILE}')) for place in ('', 'npz/')) or hcp_cifti.has_files(folder)
    ),
    hcp_cifti.has_files,  # --runs
    lambda out, _: hcp.builder(out),
  ),
}


def for_run(name: str, raw: str, out: str, subjects: Sequence[str] = ()) -> None:
  """Makes sure that a run finds its data: prepares raw files where they are new or changed.

  What is prepared is used as it is where the raw files are not at hand (any more), and where they are original files
  whose conversion takes options that a run does not have.
  """
  kind, folder = KINDS[name], Path(raw)
  is_prepared = all(
    store.is_prepared(lambda out, subject=subject: kind.builder(out, subject), out) for subject in subjects or ('',)
  )
  if is_prepared and not kind.has_raw(folder):
    print(f'{name}: no raw files in {raw}; the prepared data in {out} are used')
    return
  if is_prepared and kind.by_command(folder):
    return
  for what, (status, changed) in kind.prepare(raw, out, *[subjects] if subjects else []).items():
    if status == 'rebuilt':
      print(message(what, status, changed), flush=True)


def message(name: str, status: str, changed: Sequence[str]) -> str:
  """What was done with a data set, for people."""
  return f'{name}: {MESSAGES[status].format(", ".join(changed[:5]))}'


def _hcp(args: argparse.Namespace) -> Done:
  return prepare_hcp(args.raw, args.out, args.runs.split(','), args.workers)


def _god(args: argparse.Namespace) -> Done:
  return prepare_god(args.raw, args.out, _subjects(args), args.images)


def _bold5000(args: argparse.Namespace) -> Done:
  return prepare_bold5000(args.raw, args.out, _subjects(args))


def _own(args: argparse.Namespace) -> Done:
  masks = tuple(Path(mask) for mask in args.mask.split(',')) if args.mask else ()
  source = own_raw.Source(Path(args.betas), Path(args.events), Path(args.images), masks)
  return {f'own/{args.subject}': own.prepare(source, args.out, args.subject)}


def _check(args: argparse.Namespace) -> Done:
  folder, pages = Path(args.folder), Path(args.pages or args.folder)
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder; give one of raw or of prepared data')
  with contextlib.ExitStack() as stack:
    found = overview.find(folder)
    if not found:
      kind = next((kind for kind in KINDS.values() if kind.has_raw(folder)), None)
      if kind is None:
        raise UserError(f'{folder}: neither prepared data nor raw files of HCP, GOD or BOLD5000 found there')
      print('raw files: prepared into a temporary folder first')
      prepared = stack.enter_context(tempfile.TemporaryDirectory(prefix='brainjax_check_'))
      kind.prepare(folder, prepared)
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


def _subjects(args: argparse.Namespace) -> list[str] | None:
  return args.subjects.split(',') if args.subjects else None


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
    print(message(name, status, changed))
  return 0


if __name__ == '__main__':
  sys.exit(main())
