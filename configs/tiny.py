"""Every stage in a few minutes: what the tests run. Its pictures mean nothing."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """A simulated subject of 80 voxels, two steps per stage, random weights."""
  config = base.get_config()
  config.seed = 7
  config.remat = 'nothing'
  config.simulate.enabled = True
  config.simulate.voxels = 80
  config.simulate.subjects = 1
  config.simulate.hcp_subjects = 2
  config.simulate.image_size = 64
  config.data.hcp = '{workdir}/simulated/HCP'
  config.data.god = '{workdir}/simulated/Kamitani/npz'
  config.data.prepared = '{workdir}/prepared'
  config.data.subjects = ('sbj_1',)
  config.data.contrast_god_subjects = ('sbj_1',)
  config.data.image_size = 32
  config.data.num_val_stimuli = 20

  config.fmri_mae.update({'width': 24, 'depth': 2, 'num_heads': 2, 'decoder_width': 16, 'decoder_num_heads': 2})
  config.image_mae.update({'image_size': 32, 'patch_size': 8, 'width': 24, 'depth': 2, 'num_heads': 2, 'mlp_dim': 32})
  config.image_mae.update({'decoder_width': 16, 'decoder_num_heads': 2, 'decoder_mlp_dim': 24})
  config.first_stage.update({'ch': 32, 'ch_mult': (1, 1), 'num_res_blocks': 1, 'n_embed': 64})
  config.unet.update({'model_channels': 32, 'channel_mult': (1, 2), 'num_res_blocks': 1, 'context_dim': 16})
  config.unet.attention_resolutions = (2,)
  config.conditioner.context_tokens = 5

  for stage in ('contrast', 'attend', 'diffuse'):
    config[stage].update({'num_steps': 2, 'batch_size': 8, 'eval_every': 2, 'checkpoint_every': 1})
  config.contrast.decoder_depth = 2
  config.attend.random_init = config.diffuse.random_init = True
  config.attend.update({'decoder_depth': 2, 'image_decoder_depth': 2, 'cross_depth': 1, 'image_init_from': ''})
  config.diffuse.prior_init_from = ''

  config.reconstruct.update({'num_steps': 2, 'num_samples': 2, 'num_items': 9})
  config.evaluate.classifier = ''
  config.evaluate.published = ()
  config.evaluate.num_bootstrap = 100
  config.evaluate.num_shuffles = 20
  return config
