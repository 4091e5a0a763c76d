"""The demo: the three stages of the method on one simulated subject, in minutes on two CPU cores."""

from ml_collections import ConfigDict

from configs import base

PRIOR = 'configs/demo_prior.safetensors'  # made by configs/demo_prior.py
CLASSIFIER = 'configs/demo_classifier.safetensors'


def get_config() -> ConfigDict:
  """Simulated data of 2,048 voxels, pictures of 64 pixels, models of about a million parameters."""
  config = base.get_config()
  config.seed = 0
  config.stages += ('interpret',)
  config.stage_minutes = (0.8, 3.2, 5.2, 1.6, 1.2, 0.6)

  config.simulate.enabled = True
  config.simulate.voxels = 2048
  config.simulate.subjects = 1
  config.simulate.hcp_subjects = 8
  config.data.hcp = '{workdir}/simulated/HCP'
  config.data.god = '{workdir}/simulated/Kamitani/npz'
  config.data.prepared = '{workdir}/prepared'
  config.data.subjects = ('sbj_1',)
  config.data.contrast_god_subjects = ('sbj_1',)
  config.data.image_size = 64
  config.data.num_val_stimuli = 100
  config.data.sparse_augmentation = 0.2
  config.data.test_scale = 'single_trial'

  config.remat = 'nothing'
  config.fmri_mae.patch_size = 512  # wide patches: kernels are shared between patches, and data are few
  config.fmri_mae.width = 256
  config.fmri_mae.depth = 1
  config.fmri_mae.num_heads = 4
  config.fmri_mae.mlp_ratio = 2.0
  config.fmri_mae.decoder_width = 128
  config.fmri_mae.decoder_num_heads = 4
  image_models(config)
  config.conditioner.context_tokens = 16

  for stage in (config.contrast, config.attend, config.diffuse):
    stage.optimizer = 'muon'
    stage.learning_rate = 1e-3
  config.contrast.update({'num_steps': 200, 'batch_size': 64, 'decoder_depth': 1})
  config.contrast.update({'warmup_epochs': 2.0, 'eval_every': 100, 'checkpoint_every': 200})
  config.attend.update({'num_steps': 300, 'batch_size': 64, 'warmup_epochs': 2.0})
  config.attend.update({'decoder_depth': 1, 'cross_depth': 2, 'eval_every': 100, 'checkpoint_every': 200})
  config.attend.image_mask_ratio = 0.98  # one visible patch: the rest must come from fMRI
  config.attend.encoder_rate = 0.1  # faster, attend loses what contrast has learned (docs/method.md)
  config.attend.image_init_from = PRIOR
  config.diffuse.update({'num_steps': 850, 'batch_size': 32, 'eval_every': 200})
  config.diffuse.update({'checkpoint_every': 200, 'cosine_schedule': True})
  config.diffuse.update({'cached_crops': 1, 'crop_probability': 0.0})
  config.diffuse.encoder_rate = 0.2
  config.diffuse.stratified_steps = True
  config.diffuse.prior_init_from = PRIOR

  config.reconstruct.sampler = 'dpm'
  config.reconstruct.num_steps = 25
  config.reconstruct.batch_size = 50
  config.reconstruct.guidance = 2.0  # 1 leaves colour and background to the prior too often (docs/method.md)
  config.evaluate.classifier = CLASSIFIER
  config.evaluate.published = ()  # minutes on a CPU
  # One method, half of the test pictures, few steps: under a minute. `brainjax interpret` does everything.
  config.interpret.update({'methods': ('lesion',), 'num_items': 25, 'num_steps': 10})
  return config


def image_models(config: ConfigDict) -> None:
  """Sizes of the prior's parts: first stage, UNet, image autoencoder."""
  config.first_stage.update({'ch': 32, 'ch_mult': (1, 1, 2), 'num_res_blocks': 1, 'num_groups': 8})
  config.first_stage.update({'z_channels': 4, 'embed_dim': 4, 'n_embed': 4096})
  config.unet.update({'model_channels': 32, 'channel_mult': (1, 2, 3), 'num_res_blocks': 1})
  config.unet.update({'attention_resolutions': (2, 4), 'context_dim': 64, 'num_groups': 8})
  config.image_mae.update({'image_size': 64, 'patch_size': 8, 'width': 96, 'depth': 3, 'num_heads': 4, 'mlp_dim': 192})
  config.image_mae.update({'decoder_width': 64, 'decoder_num_heads': 4, 'decoder_mlp_dim': 128})
  config.attend.image_decoder_depth = 2
