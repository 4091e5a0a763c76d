"""Torch names of whole latent diffusion checkpoints: label2img, the fine-tuned model and Stable Diffusion 1."""

from brainjax.torch_convert.engine import Ignored, add_prefixes
from brainjax.torch_convert.tables import autoencoder, conditioner, unet

SCHEDULE = [
  Ignored(name, 'a constant of the noise schedule, computed from the configuration')
  for name in (
    'betas',
    'alphas_cumprod',
    'alphas_cumprod_prev',
    'sqrt_alphas_cumprod',
    'sqrt_one_minus_alphas_cumprod',
    'log_one_minus_alphas_cumprod',
    'sqrt_recip_alphas_cumprod',
    'sqrt_recipm1_alphas_cumprod',
    'posterior_variance',
    'posterior_log_variance_clipped',
    'posterior_mean_coef1',
    'posterior_mean_coef2',
    'lvlb_weights',
    'logvar',
  )
]

SCALE = [Ignored('scale_factor', 'the scale of the latents is an argument of the first stage')]

SAMPLER = [
  Ignored(name, 'left by a DDIM sampler, which computes it from the noise schedule')
  for name in (
    'ddim_timesteps',
    'ddim_sigmas',
    'ddim_alphas',
    'ddim_alphas_prev',
    'ddim_sqrt_one_minus_alphas',
    'ddim_sigmas_for_original_num_steps',
  )
]

# Averages are stored under the names of the weights without their dots.
AVERAGES = [
  Ignored(name, 'an average of the weights; the published fine-tuning starts from the weights themselves')
  for name in (
    'model_ema.decay',
    'model_ema.num_updates',
    *('model_ema.diffusion_model' + row.torch.replace('.', '') for row in unet.TABLE),
  )
]

TEXT_ENCODER = [
  Ignored(f'cond_stage_model.transformer.text_model.{name}', 'the text encoder is replaced by the fMRI conditioner')
  for name in (
    'embeddings.position_ids',
    'embeddings.token_embedding.weight',
    'embeddings.position_embedding.weight',
    *(
      f'encoder.layers.{{i}}.{layer}.{kind}'
      for layer in (
        'self_attn.q_proj',
        'self_attn.k_proj',
        'self_attn.v_proj',
        'self_attn.out_proj',
        'layer_norm1',
        'layer_norm2',
        'mlp.fc1',
        'mlp.fc2',
      )
      for kind in ('weight', 'bias')
    ),
    'final_layer_norm.weight',
    'final_layer_norm.bias',
  )
]

TABLE = [
  *add_prefixes(unet.TABLE, 'model.diffusion_model.', 'unet/'),
  *add_prefixes(autoencoder.VQ_TABLE, 'first_stage_model.', 'first_stage/'),
  *add_prefixes(conditioner.TABLE, 'cond_stage_model.', 'conditioner/'),
  Ignored('cond_stage_model.embedding.weight', 'the class embedder is replaced by the fMRI conditioner'),
  *SCHEDULE,
  *SCALE,
  *SAMPLER,
  *AVERAGES,
  *TEXT_ENCODER,
]
