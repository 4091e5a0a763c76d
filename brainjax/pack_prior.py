"""Command: packs what configs/demo_prior.py trained into the two small files that the demo ships with."""

from pathlib import Path
from typing import Any

import numpy as np

from brainjax.checkpoints import load_weights, save_safetensors
from brainjax.errors import ArgumentParser, command_line
from brainjax.stages import image_mae, label2img, scene_classifier
from brainjax.trees import add_prefix, subtree


@command_line
def main(argv: list[str] | None = None) -> None:
  """Command line.

  Raises:
    UserError: an option or the workdir cannot be used, or a file exists already.
  """
  parser = ArgumentParser(prog='python -m brainjax.pack_prior', description=__doc__)
  parser.add_argument('--workdir', required=True, type=Path, help='workdir of configs/demo_prior.py')
  parser.add_argument(
    '--out', required=True, type=Path, help='folder for demo_prior.safetensors and demo_classifier.safetensors'
  )
  parser.add_argument(
    '--start',
    type=Path,
    help='the prior that the workdir started from: its image autoencoder stays, and no classifier is packed',
  )
  args = parser.parse_args(argv)
  latent_diffusion, facts = load_weights(args.workdir / label2img.STAGE.name / 'weights')
  if args.start:
    start, start_facts = load_weights(args.start)
    autoencoder, image_kwargs = subtree(start, 'image_mae'), start_facts['settings']['image_mae']
  else:
    autoencoder, image_facts = load_weights(args.workdir / image_mae.STAGE.name / 'weights')
    image_kwargs = image_facts['settings']
  prior = latent_diffusion | add_prefix('image_mae', autoencoder)
  info = {'kind': 'demo_prior', 'settings': facts['settings'] | {'image_mae': image_kwargs}}
  _write(args.out / 'demo_prior.safetensors', prior, info)
  if not args.start:
    _write(
      args.out / 'demo_classifier.safetensors', *load_weights(args.workdir / scene_classifier.STAGE.name / 'weights')
    )


def _write(path: Path, params: dict[str, np.ndarray], info: dict[str, Any]) -> None:
  half = {name: np.asarray(x, np.float16) for name, x in params.items()}
  save_safetensors(path, half, info)
  print(f'{path}: {sum(x.size for x in half.values()):,} values in float16, {path.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
  raise SystemExit(main())
