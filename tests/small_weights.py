"""Weights of a whole diffusion model, small and random, that depend on fMRI."""

import jax
import numpy as np

from brainjax.checkpoints import save_weights
from brainjax.models.autoencoder import VQModel
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.latent_diffusion import LatentDiffusion
from brainjax.models.unet import UNet
from brainjax.stages import common
from brainjax.trees import flatten

NUM_VOXELS = 32


def write_weights(folder):
  """Writes weights of the diffuse stage for 32 voxels and pictures of 16 pixels; returns the folder."""
  parts = LatentDiffusion(
    FmriConditioner(num_voxels=NUM_VOXELS, patch_size=8, width=8, depth=1, num_heads=2, context_tokens=3, context_dim=8),
    UNet(
      model_channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(2,), context_dim=8,
      context_tokens=3, num_groups=4,
    ),
    VQModel(ch=8, ch_mult=(1, 2), num_res_blocks=1, n_embed=512, resolution=16, num_groups=4),
  )  # fmt: skip
  params = flatten(jax.jit(lambda key: parts.init_params(key))(jax.random.key(0)))
  # The last layer of the noise prediction starts at zero; then fMRI would not matter.
  rng = np.random.default_rng(0)
  params = {path: np.asarray(x) + 0.3 * rng.normal(size=x.shape).astype(np.float32) for path, x in params.items()}
  settings = {name: common.kwargs_of(part) for name, part in parts._asdict().items()}
  save_weights(folder, params, {'kind': 'diffuse', 'num_voxels': NUM_VOXELS, 'settings': settings})
  return folder
