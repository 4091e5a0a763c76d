"""Prepared data on disk: TFDS folders of ArrayRecord files, written without TensorFlow, whole or not at all.

A folder remembers size, modification time and SHA-256 of the raw files it came from. Preparing again does nothing while
these agree; when they differ, the new folder is built aside and swapped in, so a failure leaves the old one as it was.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.core import example_serializer

from brainjax.errors import UserError, as_user_error, disk_full_reason
from brainjax.files import lock, read_npz, sha256, to_disk
from brainjax.progress import progress

SHARD_BYTES = 256 << 20
# What was done with each data set, 'god/sbj_1': 'kept', 'built' or 'rebuilt', and the names of changed raw files.
States = dict[str, tuple[str, list[str]]]
NPZ = 'npz'  # folder below --out for the files of published .npz formats that are made from original files
# data_dir that does not exist. A builder reads existing data, which may be corrupt; with this one it reads nothing.
NOWHERE = '.nowhere'


def as_damaged(
  folder: str | os.PathLike, what: str = 'damaged prepared data'
) -> contextlib.AbstractContextManager[None]:
  """Turns any error of the body into a `UserError` that tells the user to prepare `folder` again."""
  return as_user_error(f'{folder}: {what}', 'delete this folder and prepare again')


class Metadata(tfds.core.Metadata):
  """`builder.info.metadata`: a dict whose arrays go to an .npz file and the rest to JSON, beside the records.

  TFDS without this class reads the JSON alone, which therefore holds arrays of one value per voxel too, as lists.
  """

  def save_metadata(self, data_dir):
    """Writes metadata.json and metadata.npz."""
    arrays = {name: value for name, value in self.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in self.items() if name not in arrays}
    plain |= {name: value.tolist() for name, value in arrays.items() if value.ndim == 1}
    (Path(data_dir) / 'metadata.json').write_text(json.dumps(plain) + '\n')
    with open(Path(data_dir) / 'metadata.npz', 'wb') as file:
      np.savez(file, **arrays)

  def load_metadata(self, data_dir):
    """Reads them back.

    Raises:
      UserError: the files are missing or damaged.
    """
    self.clear()
    with as_damaged(data_dir):
      self.update(json.loads((Path(data_dir) / 'metadata.json').read_text()))
      self.update(read_npz(Path(data_dir) / 'metadata.npz'))

  @property
  def masks(self) -> dict[str, np.ndarray]:
    """ROI -> `V` bool, from the entries 'roi/<name>'."""
    return {key.removeprefix('roi/'): np.asarray(value) for key, value in self.items() if key.startswith('roi/')}


def read_metadata(folder: Path) -> Metadata:
  """The metadata in a folder of prepared data.

  Raises:
    UserError: they are missing or damaged.
  """
  metadata = Metadata()
  metadata.load_metadata(folder)
  return metadata


class Info(tfds.core.DatasetInfo):
  """Facts of a data set that TFDS's own collection does not hold."""

  def initialize_from_bucket(self):
    """TFDS would ask Google's servers for what the code does not say, and leave an empty folder in /tmp each time."""


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A TFDS builder that streams its examples to ArrayRecord shards in the order they are generated: record i is row i.

  TFDS's own writer collects a split in memory, and needs TensorFlow once it holds more than 1 GB. A subclass gives the texts,
  `_info`, `raw_files`, and `_split_generators(dl_manager)`, which reads `dl_manager.manual_dir` and returns
  {split: (number of examples, iterable of examples)}. The fingerprint of the raw files is in the metadata before that.
  """

  MAX_SIMULTANEOUS_DOWNLOADS = 0
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'See data/README.md for the raw files.'
  DESCRIPTION = HOMEPAGE = CITATION = LICENSE = ''

  def __init_subclass__(cls, skip_registration: bool = True, **kwargs: Any):
    # TFDS's own registry would refuse a module that is imported twice; ours is `registry.DATA_SETS`.
    super().__init_subclass__(skip_registration=skip_registration, **kwargs)

  @classmethod
  def of(cls, prepared_dir: str | os.PathLike, subject: str = '') -> Self:
    """The builder of a data set, or of one `subject` where each subject has a folder."""
    return cls(data_dir=os.fspath(prepared_dir))

  def about(self, features: tfds.features.FeaturesDict, supervised_keys: tuple[str, str] | None = None) -> Info:
    """The facts that `_info` returns."""
    return Info(
      builder=self,
      features=features,
      description=self.DESCRIPTION,
      homepage=self.HOMEPAGE,
      citation=self.CITATION or None,
      license=self.LICENSE or None,
      supervised_keys=supervised_keys,
      metadata=Metadata(),
      disable_shuffling=True,
    )

  def raw_files(self, raw_dir: Path) -> dict[str, Path]:
    """The files below `raw_dir` that the result depends on, by name."""
    raise NotImplementedError

  def _log_download_bytes(self):
    pass  # nothing is downloaded; `prepare` reports

  def _log_download_done(self):
    pass

  def _generate_examples(self):
    raise NotImplementedError  # the splits bring their own iterables

  def _generate_splits(self, dl_manager, download_config):
    serializer = example_serializer.ExampleSerializer(self.info.features.get_serialized_info())
    self.info.metadata['raw_files'] = fingerprint(self.raw_files(Path(dl_manager.manual_dir)))
    infos = []
    for split, (count, examples) in self._split_generators(dl_manager).items():
      template = self._get_filename_template(split_name=split)
      records = (serializer.serialize_example(self.info.features.encode_example(example)) for example in examples)
      shown = progress(count, f'{self.info.full_name} {split}', steps=records, unit='rows', is_brief=True)
      lengths, num_bytes = _write_shards(shown, count, template)
      infos.append(
        tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template)
      )
    return infos


def _write_shards(records: Iterable[bytes], count: int, template) -> tuple[list[int], int]:
  """Writes `count` records of about equal size; the first one's size decides how many files there are."""
  records = iter(records)
  first = next(records)
  records = itertools.chain([first], records)
  num_shards = min(count, -(-count * len(first) // SHARD_BYTES))
  edges = [count * shard // num_shards for shard in range(num_shards + 1)]
  written = num_bytes = 0
  for shard in range(num_shards):
    path = template.sharded_filepath(shard_index=shard, num_shards=num_shards)
    # One record a group: random access. PNG and noise do not compress.
    writer = ArrayRecordWriter(os.fspath(path), 'group_size:1,uncompressed')
    for record in itertools.islice(records, edges[shard + 1] - edges[shard]):
      writer.write(record)
      written += 1
      num_bytes += len(record)
    try:
      writer.close()  # waits until everything is written; a failed write is reported only here
    except RuntimeError as error:
      raise OSError(str(error)) from error
  if written != count or next(records, None) is not None:
    raise AssertionError(f'{written} rows written of {count}, or more than these came')
  return np.diff(edges).tolist(), num_bytes


def file_digest(path: Path) -> str:
  """SHA-256 of a raw file, which is read once per process unless its size or time changes."""
  status = path.stat()
  return _file_digest(path.absolute(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
  return sha256(path)


def fingerprint(files: dict[str, Path]) -> dict[str, dict]:
  """Size, modification time and SHA-256 of each raw file."""
  stats = {name: path.stat() for name, path in files.items()}
  return {
    name: {'size': status.st_size, 'mtime_ns': status.st_mtime_ns, 'sha256': file_digest(files[name])}
    for name, status in stats.items()
  }


def read_note(path: Path) -> dict[str, Any]:
  """The JSON object in a file that says what another was made from; empty if it is missing or damaged."""
  try:
    note = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  return note if isinstance(note, dict) else {}


def digest_names(names: list[str]) -> str:
  """SHA-256 of a list of names."""
  return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def find_changed(known: dict[str, dict], files: dict[str, Path]) -> list[str]:
  """Names of raw files that have changed, are new or are gone. Bytes are read only if the time alone differs."""
  changed = sorted(known.keys() ^ files.keys())
  for name in sorted(known.keys() & files.keys()):
    status, before = files[name].stat(), known[name]
    same_time = status.st_mtime_ns == before['mtime_ns']
    if status.st_size != before['size'] or not (same_time or file_digest(files[name]) == before['sha256']):
      changed.append(name)
  return changed


def prepare(make_builder: Callable[[str], Builder], raw: Path, out: str | os.PathLike) -> tuple[str, list[str]]:
  """Builds one data set below `out`, unless it exists and its raw files have not changed.

  Args:
    make_builder: data_dir -> builder.
    raw: the folder handed to the builder as manual_dir.
    out: folder of all prepared data sets.

  Returns:
    ('kept', 'built' or 'rebuilt', names of changed raw files).

  Raises:
    UserError: raw files are missing or do not fit, or `out` cannot be written. Existing data are then as before.
  """
  out = Path(out)
  raw_files = make_builder(os.fspath(out / NOWHERE)).raw_files(raw)
  final = locate(make_builder, out)
  if (state := _state(final, raw_files))[0] == 'kept' and not any(out.glob('.staging*')):
    return state
  is_new = not out.exists()
  with as_user_error(f'{out}: cannot write this folder', 'choose another --out', (OSError,)):
    held = lock(out / '.lock', lambda: print(f'{out}: another process prepares data there; waiting for it', flush=True))
  with held:
    for left in out.glob('.staging*'):  # of killed processes
      shutil.rmtree(left, ignore_errors=True)
    try:
      if (state := _state(final, raw_files))[0] != 'kept':  # unless it has just been made
        _build(make_builder, raw, out)
    except BaseException:
      if [path.name for path in out.iterdir()] == ['.lock']:  # nothing was prepared here yet
        (out / '.lock').unlink()
        if is_new:
          with contextlib.suppress(OSError):  # another process has just begun here
            out.rmdir()
      raise
  return state


def _state(final: Path, raw_files: dict[str, Path]) -> tuple[str, list[str]]:
  """What `prepare` returns for a data set: what must be done, and why."""
  if not final.exists():
    return 'built', []
  try:
    changed = find_changed(read_metadata(final).get('raw_files', {}), raw_files)
  except UserError:
    changed = ['the prepared data (damaged)']
  return ('rebuilt', changed) if changed else ('kept', [])


def _build(make_builder: Callable[[str], Builder], raw: Path, out: Path) -> None:
  final, staging = locate(make_builder, out), out / '.staging'
  new = make_builder(os.fspath(staging))
  try:
    config = tfds.download.DownloadConfig(manual_dir=raw, compute_stats='skip', try_download_gcs=False)
    new.download_and_prepare(download_dir=staging / 'downloads', download_config=config, file_format='array_record')
    built = Path(new.data_dir)
    to_disk(built)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
      old = staging / 'replaced'
      os.rename(final, old)
      try:
        os.rename(built, final)
      except OSError:
        os.rename(old, final)
        raise
    else:
      os.rename(built, final)
  except OSError as error:
    reason = disk_full_reason(str(error))
    remedy = 'Make room on that disk and run' if reason else 'Mend that and run'
    raise UserError(
      f'{out}: the prepared data cannot be written ({reason or error}); nothing was changed there. {remedy} the same '
      'command again.'
    ) from error
  finally:
    shutil.rmtree(staging, ignore_errors=True)


def locate(make_builder: Callable[[str], Builder], prepared_dir: str | os.PathLike) -> Path:
  """The folder of a data set below `prepared_dir`. Reads nothing."""
  nowhere = Path(prepared_dir) / NOWHERE
  return Path(prepared_dir) / Path(make_builder(os.fspath(nowhere)).data_dir).relative_to(nowhere)


def is_prepared(make_builder: Callable[[str], Builder], prepared_dir: str | os.PathLike) -> bool:
  """Whether the data set exists, whole or corrupt."""
  return (locate(make_builder, prepared_dir) / 'dataset_info.json').is_file()


def raw_digest(builder: Builder) -> str:
  """SHA-256 of the names and bytes of the raw files that prepared data came from."""
  known = builder.info.metadata['raw_files']
  return digest_names([text for name in sorted(known) for text in (name, known[name]['sha256'])])


def open_prepared(make_builder: Callable[[str], Builder], prepared_dir: str | os.PathLike, command: str) -> Builder:
  """The builder of prepared data.

  Raises:
    UserError: the data are not prepared (the message gives the `command` of prepare that does it), or corrupt.
  """
  folder = locate(make_builder, prepared_dir)
  if not is_prepared(make_builder, prepared_dir):
    raise UserError(f'{folder}: not prepared yet; run: brainjax prepare {command} --out={prepared_dir}')
  with as_damaged(folder):
    return make_builder(os.fspath(prepared_dir))


def read_rows(builder: tfds.core.DatasetBuilder, split: str, rows: range | None = None) -> Iterator[dict]:
  """Rows of a split in order (by default all), read in blocks. Pictures stay PNG bytes."""
  decoders = {'image': tfds.decode.SkipDecoding()} if 'image' in builder.info.features else None
  source = builder.as_data_source(split, decoders=decoders)
  rows = rows or range(len(source))
  for start in range(0, len(rows), 256):
    yield from source.__getitems__(list(rows[start : start + 256]))


def decode_png(data: bytes) -> np.ndarray:
  """PNG bytes -> `H W 3` uint8."""
  with Image.open(io.BytesIO(data)) as image:
    return np.asarray(image.convert('RGB'))
