"""How well the demo's prior draws when it is told the truth: the ceiling of every score of the demo.

python -m benchmarks.oracle [--prior=configs/demo_prior.safetensors] [--guidance=1] [--picture=oracle.png]

Samples the prior with the true attributes of the test pictures, which it has not seen in this combination, and scores the samples
as the demo does. Prints 50-way top-1 and pairwise identification, and the share of samples of which the demo's classifier tells
each attribute correctly.
"""

import argparse
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from brainjax.checkpoints import load_weights
from brainjax.errors import UserError, command_line
from brainjax.evaluation import report
from brainjax.evaluation.images import Images
from brainjax.evaluation.networks import classifiers
from brainjax.evaluation.score import score_images
from brainjax.models.autoencoder import first_stage
from brainjax.models.unet import UNet
from brainjax.ops import diffusion, samplers
from brainjax.simulator import stimuli
from brainjax.stages.label2img import OFFSETS
from brainjax.trees import lists_to_tuples, subtree, unflatten
from configs import demo

BATCH = 50


def sample(prior: str, attributes: np.ndarray, num_samples: int, num_steps: int, guidance: float) -> np.ndarray:
  """Pictures of the prior: uint8 N S H W 3 for attributes N 5, by DPM-Solver++.

  Raises:
    UserError: the prior has no embedding of attributes.
  """
  flat, info = load_weights(prior)
  if not subtree(flat, 'class_embedder'):
    raise UserError(
      f'{prior} has no class_embedder, so it cannot be told attributes; pack it with brainjax.pack_prior.'
    )
  kwargs = lists_to_tuples(info['settings'])
  autoencoder, unet = first_stage(kwargs['first_stage'], jnp.float32), UNet(**kwargs['unet'])
  params = {name: unflatten(subtree(flat, name)) for name in ('first_stage', 'unet', 'class_embedder')}
  table = params['class_embedder']['embedding']
  schedule = diffusion.make_schedule()
  steps = diffusion.sample_steps(schedule.num_steps, num_steps)

  @jax.jit
  def draw(params, attributes, key):
    context = nn.Embed(*table.shape).apply({'params': params['class_embedder']}, attributes + OFFSETS)
    given = lambda context: lambda x, t: unet.apply({'params': params['unet']}, x, t, context)
    eps = given(context) if guidance == 1 else samplers.guided(given(context), given(0 * context), guidance)
    latent = samplers.dpm(eps, jax.random.normal(key, (BATCH, *autoencoder.latent_shape)), schedule, steps)
    image = autoencoder.apply({'params': params['first_stage']}, latent, method='to_image')
    return jnp.round((jnp.clip(image, -1, 1) + 1) * 127.5).astype(jnp.uint8)

  rows = np.repeat(attributes, num_samples, axis=0)
  padded = np.resize(rows, (-(-len(rows) // BATCH) * BATCH, rows.shape[1]))
  parts = [
    np.asarray(draw(params, padded[i : i + BATCH], jax.random.fold_in(jax.random.key(0), i)))
    for i in range(0, len(padded), BATCH)
  ]
  pictures = np.concatenate(parts)[: len(rows)]
  return pictures.reshape(len(attributes), num_samples, *pictures.shape[1:])


def named_attributes(probabilities: np.ndarray, attributes: np.ndarray) -> dict[str, float]:
  """The share of samples N S for whose most likely category C of all 200 each attribute N 5 is right."""
  guessed = stimuli.categories().attributes[probabilities.argmax(axis=-1)]  # N S 5
  return dict(zip(stimuli.ATTRIBUTES, (guessed == attributes[:, None]).mean(axis=(0, 1)).tolist(), strict=True))


@command_line
def main(argv: list[str] | None = None) -> None:
  """Samples, scores, prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--prior', default=demo.PRIOR)
  parser.add_argument('--samples', type=int, default=5)
  parser.add_argument('--steps', type=int, default=25)
  parser.add_argument('--guidance', type=float, default=1.0)
  parser.add_argument('--picture', type=Path, help='draws stimuli and samples')
  args = parser.parse_args(argv)
  categories = stimuli.categories()
  attributes = categories.test_attributes
  truth = stimuli.render(attributes, np.random.default_rng(0), 64)
  samples = sample(args.prior, attributes, args.samples, args.steps, args.guidance)
  classifier = classifiers.load(demo.CLASSIFIER)
  images = Images(truth, samples, np.arange(len(truth)), categories.test)
  scores, _ = score_images(images, classifier.probabilities, classifier.name, perceptual=False)
  for name in ('class_50way_top1', 'pairwise_pcc', 'pairwise_ssim'):
    entry = scores['scores'][name]['mean_of_samples']
    print(f'{name}: {entry["value"]:.3f} ({entry["interval"][0]:.3f} to {entry["interval"][1]:.3f})')
  probabilities = np.stack([classifier.probabilities(part) for part in samples])  # N S C
  for name, share in named_attributes(probabilities, attributes).items():
    print(f'{name}: {share:.3f}')
  if args.picture:
    names = [stimuli.name(row) for row in attributes]
    report.draw_grid(truth, samples, args.picture, captions=names, title='seen, and drawn by the prior from attributes')


if __name__ == '__main__':
  raise SystemExit(main())
