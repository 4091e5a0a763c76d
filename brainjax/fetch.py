"""Command: fetches public weights from where their authors publish them, checks and converts them: brainjax fetch NAME ..."""

import os
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from brainjax import convert, files, hub
from brainjax.datasets.registry import DATA_SETS
from brainjax.errors import ArgumentParser, UserError, command_line


class Public(NamedTuple):
  """Weights that anybody may download.

  Attributes:
    what: describes them.
    kind: of `convert`.
    licence: as their authors state it.
    repository: on the Hugging Face hub; empty: `url`.
    url: of one file.
    sha256: its first digits, where they are published (as in PyTorch's file names).
    member: name of the file of weights in a zip archive; empty: the file itself holds them.
  """

  what: str
  kind: str
  licence: str
  repository: str = ''
  url: str = ''
  sha256: str = ''
  member: str = ''


PUBLIC = {
  'vit_mae': Public(
    'ViT-MAE base with its decoder, the image side of attend', 'vit_mae', 'Apache-2.0', 'facebook/vit-mae-base'
  ),
  'mae': Public(
    'MAE ViT-B of its authors, without a decoder', 'vit_mae', 'CC BY-NC 4.0',
    url='https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth',
  ),
  'label2img': Public(
    'label2img (cin256-v2), the image prior of diffuse', 'label2img',
    'MIT (code of CompVis/latent-diffusion); its page states no other for the weights',
    url='https://ommer-lab.com/files/latent-diffusion/nitro/cin/model.ckpt',
  ),
  'vq_f4': Public(
    'VQ-f4, a first stage alone', 'vq_f4',
    'MIT (code of CompVis/latent-diffusion); its page states no other for the weights',
    url='https://ommer-lab.com/files/latent-diffusion/vq-f4.zip', member='model.ckpt',
  ),
  'vit_h_14': Public(
    'ViT-H/14 (SWAG), the classifier of the paper', 'vit_h_14', 'CC BY-NC 4.0',
    url='https://download.pytorch.org/models/vit_h_14_swag-80465313.pth', sha256='80465313',
  ),
  'inception_v3': Public(
    'Inception v3 of pytorch-fid, for FID', 'inception_v3', 'Apache-2.0',
    url='https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth',
    sha256='6726825d',
  ),
  'inception_imagenet': Public(
    'Inception v3 of torchvision (ImageNet), for published tables', 'inception_v3',
    'BSD-3-Clause (torchvision); its page states no other for the weights',
    url='https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth', sha256='0cc3c7bd',
  ),
  'efficientnet_b1': Public(
    'EfficientNet-B1 of torchvision (ImageNet, V2), for published tables', 'efficientnet_b1',
    'BSD-3-Clause (torchvision); its page states no other for the weights',
    url='https://download.pytorch.org/models/efficientnet_b1-c27df63c.pth', sha256='c27df63c',
  ),
  'clip': Public(
    'CLIP ViT-L/14, for identification', 'clip', 'MIT (code of openai/CLIP)', 'openai/clip-vit-large-patch14'
  ),
}  # fmt: skip

# What needs an account, a form or a page that programs cannot read: where it is, and the command for afterwards.
BY_HAND = {
  'phase1': (
    'https://1drv.ms/u/s!AlmPyF18ti-A3XmuKMPEfVNdvmsT?e=ROrzfE (a OneDrive page, named in '
    'https://github.com/soinx0629/vis_dec_neurips)',
    'brainjax convert FILE --kind=phase1 --out=weights/phase1',
  ),
  'phase2': (
    'https://1drv.ms/u/s!AlmPyF18ti-A3XjJEkOfBELTl71W?e=FbsYki (a OneDrive page, named in '
    'https://github.com/soinx0629/vis_dec_neurips)',
    'brainjax convert FILE --kind=phase2 --out=weights/phase2',
  ),
  'mind_vis': (
    'https://figshare.com/s/94cd778e6afafb00946e (figshare; also holds label2img with its config, and data)',
    'brainjax convert pretrains/GOD/finetuned.pth --kind=ldm --out=weights/mind_vis',
  ),
  'swav': (
    'https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar (named in '
    'https://github.com/facebookresearch/swav; no checksum is published)',
    'brainjax convert FILE --kind=resnet50 --out=weights/swav',
  ),
  **{name: (each.origin, f'brainjax prepare {each.command}') for name, each in DATA_SETS.items() if each.origin},
}  # fmt: skip


def fetch(name: str, out: Path) -> Path:
  """Fetches, checks and converts weights of `PUBLIC` into `out`/`name`, whose weights.json gets address and licence.

  Raises:
    UserError: the address cannot be reached, or the file is another one than was published.
  """
  public, target = PUBLIC[name], out / name
  if target.exists():
    print(f'{name}: {target} exists already, kept')
    return target
  address = hub.address(public.repository) if public.repository else public.url
  print(f'{name}: {public.what}\n  from {address}\n  licence: {public.licence}', flush=True)
  source = _from_hub(public) if public.repository else _from_url(public)
  origin = {'origin': address, 'licence': public.licence}
  convert.main([str(source), f'--kind={public.kind}', f'--out={target}'], origin)
  return target


def _from_hub(public: Public) -> Path:
  """The folder of a repository, with one form of its weights."""
  return hub.files_of(public.repository, ['config.json'], ['model.safetensors', 'pytorch_model.bin'])


def _from_url(public: Public) -> Path:
  """The file behind an address, in the cache."""
  name = public.url.rsplit('/', 1)[-1]
  folder = Path(os.environ.get('BRAINJAX_CACHE', '~/.cache/brainjax')).expanduser() / 'downloads' / public.kind
  path = hub.download_url(public.url, folder / name, public.sha256)
  if not public.member:
    return path
  inside = folder / public.member
  if not inside.is_file():
    try:
      with (
        zipfile.ZipFile(path) as archive,
        archive.open(public.member) as stream,
        files.atomic_write(inside) as temporary,
        open(temporary, 'wb') as target,
      ):
        shutil.copyfileobj(stream, target)
    except (zipfile.BadZipFile, KeyError) as error:
      raise UserError(f'{path}: no zip archive with {public.member} ({error}); remove it and fetch again.') from error
  return inside


def explain(name: str) -> str:
  """Where to get what programs cannot fetch, and what to do then."""
  where, command = BY_HAND[name]
  return f'{name}: brainjax cannot fetch this. Get it from {where}. Then: {command}'


@command_line
def main(argv: Sequence[str] | None = None) -> int:
  """Fetches the named weights; exit status 2 if one of them must be fetched by hand.

  Raises:
    UserError: an unknown name, or as `fetch`.
  """
  parser = ArgumentParser(prog='brainjax fetch', description=__doc__)
  parser.add_argument(
    'names', nargs='*', help=f'some of {", ".join(PUBLIC)}, or all-public; {", ".join(BY_HAND)} are explained'
  )
  parser.add_argument('--out', type=Path, default=Path('weights'), help='folder of weights (default: weights)')
  args = parser.parse_args(argv)
  names = [each for name in args.names for each in (PUBLIC if name == 'all-public' else [name])]
  if not names:
    for name, public in PUBLIC.items():
      print(f'{name:14} {public.what}; licence: {public.licence}')
    print(f'by hand        {", ".join(BY_HAND)}')
    return 0
  if unknown := [name for name in names if name not in PUBLIC and name not in BY_HAND]:
    raise UserError(
      f'{", ".join(unknown)}: expected some of {", ".join([*PUBLIC, *BY_HAND])}, or all-public. Weights on the hub '
      'that brainjax packed are named where they are used: hf://org/name.'
    )
  for name in names:
    if name in PUBLIC:
      fetch(name, args.out)
    else:
      print(explain(name))
  return 2 if set(names) & set(BY_HAND) else 0


if __name__ == '__main__':
  sys.exit(main())
