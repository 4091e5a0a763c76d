"""Makes the demo's prior and classifier from rendered scenes. The prior sees no scene of a test category.

Run by `make demo-prior`. The packed prior was then trained longer, from the packed file itself:

    python launch.py --config=configs/demo_prior.py --workdir=runs/longer --stages=label2img \
        --config.label2img.init_from=configs/demo_prior.safetensors --config.label2img.num_steps=3000 \
        --config.label2img.batch_size=64 --config.label2img.num_scenes=16384
    python -m brainjax.pack_prior --workdir=runs/longer --start=configs/demo_prior.safetensors --out=runs/longer
"""

from ml_collections import ConfigDict

from configs import base, demo


def get_config() -> ConfigDict:
  """The four parts one after the other; about an hour on two CPU cores."""
  config = base.get_config().unlock()  # for the sections of these stages
  config.seed = 0
  config.stages = ('first_stage_training', 'image_mae_training', 'label2img', 'scene_classifier')
  config.data.image_size = 64
  demo.image_models(config)

  common = {'optimizer': 'muon', 'betas': (0.9, 0.99), 'weight_decay': 0.0}
  config.first_stage_training = base.training(1, 4, 1e-3, warmup_epochs=50.0, clip_norm=1.0)
  config.first_stage_training.update({'num_steps': 2400, **common})
  config.image_mae_training = base.training(1, 64, 1e-3, warmup_epochs=50.0, clip_norm=1.0)
  config.image_mae_training.update({'num_steps': 600, 'mask_ratio': 0.75, **common})
  config.label2img = base.training(1, 32, 1e-3, warmup_epochs=50.0, clip_norm=1.0)
  config.label2img.update({'num_steps': 4000, 'num_scenes': 12_288, **common})
  config.scene_classifier = base.training(1, 64, 2e-3, warmup_epochs=100.0, clip_norm=1.0)
  config.scene_classifier.update({'num_steps': 1500, 'betas': (0.9, 0.99), 'weight_decay': 0.0})
  return config.lock()
