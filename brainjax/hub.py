"""The Hugging Face hub: `hf://org/name[@revision]` names weights there. Nothing is fetched unless a user names it.

huggingface_hub keeps a cache (`HF_HOME`), resumes broken downloads and shows progress; `HF_ENDPOINT` names another hub.
"""

import contextlib
import functools
import os
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from brainjax import files
from brainjax.errors import UserError

PREFIX = 'hf://'
_SOURCE = re.compile(r'hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?')
# Classes of Python, requests and httpx. OfflineModeIsEnabled of huggingface_hub is a ConnectionError.
NETWORK_ERRORS = frozenset(('ConnectionError', 'TimeoutError', 'Timeout', 'TransportError'))
# What brainjax weights are made of; other files of a repository are not fetched.
WEIGHTS = ['*.safetensors', '*.json', '*.png', 'README.md', files.SUMS, 'params/**']


def parse(source: str) -> tuple[str, str | None]:
  """'hf://org/name@revision' -> ('org/name', 'revision').

  Raises:
    UserError: it is written in another way.
  """
  if not (match := _SOURCE.fullmatch(source)):
    raise UserError(f'{source!r}: expected hf://ORGANISATION/NAME, or hf://ORGANISATION/NAME@REVISION.')
  return match[1], match[2]


@functools.lru_cache(maxsize=64)
def weights(source: str) -> Path:
  """The folder of brainjax weights in a repository, fetched if it is not in the cache. A process asks the hub once.

  Raises:
    UserError: the repository does not exist, may not be read or holds no brainjax weights; it is not in the cache and the
      hub cannot be reached.
  """
  repository, revision = parse(source)
  with _as_user_error(source):
    info = _info(repository, revision)
    if info and not {'model.safetensors', 'weights.json'} & (names := _names(info)):
      raise UserError(
        f'{source} holds no brainjax weights (model.safetensors or weights.json), but {", ".join(sorted(names)[:8]) or "nothing"}. '
        'Released PyTorch weights: brainjax fetch, or brainjax convert.'
      )
    return _download(repository, revision, info, WEIGHTS)


def _info(repository: str, revision: str | None) -> Any:
  """What the hub says of a repository and its files; None if the hub cannot be reached."""
  import huggingface_hub

  try:
    return huggingface_hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
  except Exception as error:
    if not _is_network_error(error):
      raise
    return None


def _names(info: Any) -> set[str]:
  return {file.rfilename for file in info.siblings or ()}


def _download(repository: str, revision: str | None, info: Any, patterns: Sequence[str]) -> Path:
  """The folder of some files of a repository, in the cache. The SHA-256 of large files is compared with the hub's."""
  import huggingface_hub

  folder = Path(
    huggingface_hub.snapshot_download(
      repository,
      revision=revision,
      allow_patterns=list(patterns),
      local_files_only=info is None,
    )
  )
  for file in info.siblings or () if info else ():
    path = folder / file.rfilename
    if file.lfs and path.is_file() and (found := files.sha256(path)) != file.lfs.sha256:
      blob = path.resolve()
      path.unlink()
      blob.unlink(missing_ok=True)
      raise UserError(
        f'hf://{repository}: {file.rfilename} has SHA-256 {found}; the hub says {file.lfs.sha256}. It was removed. The same '
        'command fetches it again.'
      )
  return folder


def files_of(repository: str, needed: Sequence[str], one_of: Sequence[str]) -> Path:
  """The folder of files of a repository: all of `needed`, and the first of `one_of` that it has.

  Raises:
    UserError: it has none of them, or as `weights`.
  """
  source = PREFIX + repository
  with _as_user_error(source):
    info = _info(repository, None)
    chosen = [name for name in one_of if info is None or name in _names(info)]
    if not chosen:
      raise UserError(f'{source} has none of the files {", ".join(one_of)}.')
    return _download(repository, None, info, [*needed, *(chosen if info is None else chosen[:1])])


def download_url(url: str, path: Path, sha256: str = '') -> Path:
  """The file behind an address, kept at `path`; a broken download continues where it stopped.

  `sha256`: its first digits, if they are known.

  Raises:
    UserError: the address cannot be reached, or the file has another checksum; it is then removed.
  """
  from huggingface_hub.file_download import http_get

  if path.is_file():
    return path
  part = path.with_name(f'{path.name}.part')
  part.parent.mkdir(parents=True, exist_ok=True)
  try:
    with open(part, 'ab') as stream:
      http_get(url, stream, resume_size=stream.tell(), displayed_filename=path.name)
  except Exception as error:
    if not (isinstance(error, OSError) or _is_network_error(error)):
      raise
    if _is_network_error(error) and not part.stat().st_size:
      raise UserError(
        f'no connection to {urllib.parse.urlsplit(url).netloc} ({_reason(error)}). Connect to the network and give the same '
        f'command again, or fetch {url} on another machine and copy it to {path}.'
      ) from error
    if getattr(getattr(error, 'response', None), 'status_code', None) != 416:  # 416: nothing is left to fetch
      raise UserError(
        f'{url}: the transfer failed ({_reason(error)}). The same command continues where it stopped, in {part}.'
      ) from error
  if not (found := files.sha256(part)).startswith(sha256):
    part.unlink()
    raise UserError(
      f'{url}: the file has SHA-256 {found}; its authors published {sha256}... It was removed. The same command fetches '
      'it again.'
    )
  return part.rename(path)


def push(folder: Path, source: str) -> str:
  """Uploads a folder to a repository, which is made if it is missing; earlier files stay in its history. Gives its address.

  Raises:
    UserError: no permission, or the hub cannot be reached.
  """
  import huggingface_hub

  repository, revision = parse(source)
  with _as_user_error(source):
    api = huggingface_hub.HfApi()
    api.create_repo(repository, exist_ok=True)
    api.upload_folder(
      repo_id=repository, folder_path=folder, revision=revision, commit_message='Weights packed by brainjax'
    )
  return f'{api.endpoint}/{repository}'


def address(repository: str) -> str:
  """The page of a repository."""
  import huggingface_hub

  return f'{huggingface_hub.HfApi().endpoint}/{repository}'


def _is_network_error(error: BaseException) -> bool:
  """Whether the network is not there. By names, because versions of huggingface_hub use different HTTP clients."""
  return not NETWORK_ERRORS.isdisjoint(kind.__name__ for kind in type(error).__mro__)


@contextlib.contextmanager
def _as_user_error(source: str) -> Iterator[None]:
  from huggingface_hub import errors

  page = address(parse(source)[0])
  try:
    yield
  except UserError:
    raise
  except errors.GatedRepoError as error:
    raise UserError(
      f'{source} is gated: its owners admit those who accept their terms. Open {page}, accept them, run `hf auth login`, and '
      'give the same command again.'
    ) from error
  except errors.RevisionNotFoundError as error:
    raise UserError(f'{source}: the repository has no such revision; its history is at {page}.') from error
  except errors.RepositoryNotFoundError as error:
    raise UserError(
      f'{source}: there is no such repository, or it is private. Check its name at {page}; `hf auth login` opens your own '
      'private ones.'
    ) from error
  except Exception as error:
    if isinstance(error, errors.LocalEntryNotFoundError) or _is_network_error(error):
      raise UserError(
        f'{source} is not in the cache, and {page} cannot be reached. Connect to the network, or '
        'fetch it on another machine and copy the folder.'
      ) from error
    if not isinstance(error, errors.HfHubHTTPError | OSError):
      raise
    raise UserError(
      f'{source}: the transfer failed ({_reason(error)}). The same command continues where it stopped.'
    ) from error


def _reason(error: Any) -> str:
  return ' '.join(str(error).split())[:200] or type(error).__name__


def is_hub(source: str | os.PathLike) -> bool:
  """Whether a user names a repository of the hub."""
  return str(source).startswith(PREFIX)
