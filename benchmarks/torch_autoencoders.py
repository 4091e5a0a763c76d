"""The autoencoders of the method, made of layers of timm and transformers, under the published names.

They share no code with brainjax: `benchmarks/training_parity.py` and tests compare with them.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from transformers import ViTMAEConfig
from transformers.models.vit_mae.modeling_vit_mae import ViTMAELayer

from benchmarks import timm_modules

# Pre-norm Transformer block of the fMRI autoencoder: width, heads, mlp_ratio.
Block = partial(timm_modules.load('timm.models.vision_transformer').Block, qkv_bias=True, norm_layer=nn.LayerNorm)


class CrossLayer(ViTMAELayer):
  """A ViT-MAE layer whose self-attention only computes the query of a cross-attention."""

  def __init__(self, config: ViTMAEConfig):
    super().__init__(config)
    width = config.hidden_size
    self.heads = config.num_attention_heads

    def attention():
      inner = nn.ModuleDict({name: nn.Linear(width, width) for name in ('query', 'key', 'value')})
      return nn.ModuleDict({'attention': inner, 'output': nn.ModuleDict({'dense': nn.Linear(width, width)})})

    self.attention, self.cross_attention = attention(), attention()

  def attend(self, parts, x, source):
    """Multi-head attention of x B L D on source B M D."""
    inner = parts['attention']
    q, k, v = (
      inner[name](y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
      for name, y in (('query', x), ('key', source), ('value', source))
    )
    return parts['output']['dense'](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

  def forward(self, x, source):
    """B L D and B M D -> B L D."""
    y = self.layernorm_before(x)
    y = self.layernorm_before(self.attend(self.attention, y, y))
    x = x + self.attend(self.cross_attention, y, source)
    return x + self.output.dense(F.gelu(self.intermediate.dense(self.layernorm_after(x))))


def vit_config(width: int, heads: int, mlp: int) -> ViTMAEConfig:
  """Returns the config of Hugging Face's layers."""
  return ViTMAEConfig(
    hidden_size=width, num_attention_heads=heads, intermediate_size=mlp, layer_norm_eps=1e-12,
    attn_implementation='eager',
  )  # fmt: skip


def first(x):
  """Returns the output of a layer: layers of some versions of transformers return a tuple."""
  return x[0] if isinstance(x, tuple) else x


def shuffled(tokens, noise, ratio):
  """Drops tokens; returns those that are kept, the order that restores all, and the mask."""
  kept = int(tokens.shape[1] * (1 - ratio))
  order = noise.argsort(1)
  restore = order.argsort(1)
  index = order[:, :kept, None].expand(-1, -1, tokens.shape[2])
  return tokens.gather(1, index), restore, (restore >= kept).float()


def restored(x, mask_token, restore):
  """Returns the class token and all tokens in order, with mask tokens for those that were dropped."""
  filler = mask_token.expand(x.shape[0], restore.shape[1] - x.shape[1] + 1, -1)
  tokens = torch.cat([x[:, 1:], filler], 1)
  tokens = tokens.gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))
  return torch.cat([x[:, :1], tokens], 1)


class Fmri(nn.Module):
  """Masked autoencoder of fMRI, with cross-attention if `cross` is not None.

  Args:
    decoder: width, depth and heads.
    cross: sizes of the cross-attention, with `cross_depth` layers.
  """

  def __init__(
    self, voxels: int, patch: int, width: int, depth: int, heads: int, decoder: tuple[int, int, int],
    mlp_ratio: float = 1.0, cross: ViTMAEConfig | None = None, cross_depth: int = 1, cross_residual: bool = True,
  ):  # fmt: skip
    super().__init__()
    inner, decoder_depth, decoder_heads = decoder
    tokens, self.cross_residual = voxels // patch, cross_residual
    self.patch_embed = nn.ModuleDict({'proj': nn.Conv1d(1, width, patch, patch)})
    self.cls_token, self.mask_token = (nn.Parameter(torch.zeros(1, 1, n)) for n in (width, inner))
    self.pos_embed, self.decoder_pos_embed = (
      nn.Parameter(torch.zeros(1, tokens + 1, n), requires_grad=False) for n in (width, inner)
    )
    self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
    self.norm = nn.LayerNorm(width)
    self.decoder_embed = nn.Linear(width, inner)
    self.decoder_blocks = nn.ModuleList(Block(inner, decoder_heads, mlp_ratio) for _ in range(decoder_depth))
    self.decoder_norm, self.decoder_pred = nn.LayerNorm(inner), nn.Linear(inner, patch)
    if cross:
      across = cross.hidden_size
      self.cross_map_in, self.cross_map_out = nn.Linear(width, across), nn.Linear(across, width)
      self.cross_blocks = nn.ModuleList(CrossLayer(cross) for _ in range(cross_depth))

  def encode(self, fmri, noise=None, ratio=0.0, image=None):
    """fMRI B V -> tokens, restore, mask."""
    x = self.patch_embed.proj(fmri[:, None]).transpose(1, 2) + self.pos_embed[:, 1:]
    restore = mask = None
    if noise is not None:
      x, restore, mask = shuffled(x, noise, ratio)
    x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
    for block in self.blocks:
      x = block(x)
    if image is not None:
      h = c = self.cross_map_in(x)
      for block in self.cross_blocks:
        c = block(c, image)
      x = self.cross_map_out(h + c if self.cross_residual else c)
    return self.norm(x), restore, mask

  def decode(self, latent, restore):
    """Tokens -> predicted patches B L p."""
    x = restored(self.decoder_embed(latent), self.mask_token, restore) + self.decoder_pos_embed
    for block in self.decoder_blocks:
      x = block(x)
    return self.decoder_pred(self.decoder_norm(x))[:, 1:]

  def forward(self, fmri, noise, ratio, image=None):
    """fMRI B V -> predicted patches, mask."""
    x, restore, mask = self.encode(fmri, noise, ratio, image)
    return self.decode(x, restore), mask


class Picture(nn.Module):
  """Masked autoencoder of pictures with cross-attention to fMRI tokens, under Hugging Face's names."""

  def __init__(
    self, pixels: int, patch: int, large: ViTMAEConfig, depth: int, small: ViTMAEConfig, decoder_depth: int,
    fmri_width: int, cross_depth: int = 1,
  ):  # fmt: skip
    super().__init__()
    tokens, width, inner = (pixels // patch) ** 2, large.hidden_size, small.hidden_size
    embeddings = nn.Module()
    embeddings.patch_embeddings = nn.ModuleDict({'projection': nn.Conv2d(3, width, patch, patch)})
    embeddings.cls_token = nn.Parameter(torch.zeros(1, 1, width))
    embeddings.position_embeddings = nn.Parameter(torch.zeros(1, tokens + 1, width))
    encoder = nn.ModuleDict({'layer': nn.ModuleList(ViTMAELayer(large) for _ in range(depth))})
    if cross_depth:
      encoder['cross_map_in'] = nn.Linear(fmri_width, width)
      encoder['layer_cross'] = nn.ModuleList(CrossLayer(large) for _ in range(cross_depth))
    layernorm = nn.LayerNorm(width, eps=1e-12)
    self.vit = nn.ModuleDict({'embeddings': embeddings, 'encoder': encoder, 'layernorm': layernorm})
    self.decoder = nn.Module()
    self.decoder.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
    self.decoder.decoder_pos_embed = nn.Parameter(torch.zeros(1, tokens + 1, inner))
    self.decoder.decoder_embed = nn.Linear(width, inner)
    self.decoder.decoder_layers = nn.ModuleList(ViTMAELayer(small) for _ in range(decoder_depth))
    self.decoder.decoder_norm = nn.LayerNorm(inner)
    self.decoder.decoder_pred = nn.Linear(inner, patch**2 * 3)
    frozen = [p for name, p in self.named_parameters() if name.startswith('vit.') and 'cross' not in name]
    for parameter in [*frozen, self.decoder.decoder_pos_embed]:
      parameter.requires_grad_(False)

  def encode(self, images, noise=None, ratio=0.0, fmri=None):
    """Pictures B 3 H W -> tokens, restore, mask."""
    inner = self.vit['embeddings']
    x = inner.patch_embeddings.projection(images).flatten(2).transpose(1, 2) + inner.position_embeddings[:, 1:]
    restore = mask = None
    if noise is not None:
      x, restore, mask = shuffled(x, noise, ratio)
    x = torch.cat([(inner.cls_token + inner.position_embeddings[:, :1]).expand(len(x), -1, -1), x], 1)
    for layer in self.vit['encoder']['layer']:
      x = first(layer(x))
    if fmri is not None:
      for layer in self.vit['encoder']['layer_cross']:
        x = layer(x, self.vit['encoder']['cross_map_in'](fmri))
    return self.vit['layernorm'](x), restore, mask

  def decode(self, latent, restore):
    """Tokens -> predicted patches B L (p p 3)."""
    decoder = self.decoder
    x = restored(decoder.decoder_embed(latent), decoder.mask_token, restore) + decoder.decoder_pos_embed
    for layer in decoder.decoder_layers:
      x = first(layer(x))
    return decoder.decoder_pred(decoder.decoder_norm(x))[:, 1:]

  def forward(self, images, noise, ratio, fmri=None):
    """Pictures B 3 H W -> predicted patches, mask."""
    x, restore, mask = self.encode(images, noise, ratio, fmri)
    return self.decode(x, restore), mask


class Conditioner(nn.Module):
  """The fMRI encoder without class token and masks, and the maps to a context; `tokens` None: pooled."""

  def __init__(
    self, voxels: int, patch: int, width: int, depth: int, heads: int, tokens: int | None, dim: int,
    mlp_ratio: float = 1.0,
  ):  # fmt: skip
    super().__init__()
    count = voxels // patch
    self.mae = nn.Module()
    self.mae.patch_embed = nn.ModuleDict({'proj': nn.Conv1d(1, width, patch, patch)})
    self.mae.cls_token, self.mae.mask_token = (
      nn.Parameter(torch.zeros(1, 1, width), requires_grad=False) for _ in range(2)
    )
    self.mae.pos_embed = nn.Parameter(torch.zeros(1, count + 1, width), requires_grad=False)
    self.mae.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
    self.mae.norm = nn.LayerNorm(width)
    self.pooled = tokens is None
    if not self.pooled:
      self.channel_mapper = nn.Sequential(nn.Conv1d(count, count // 2, 1), nn.Conv1d(count // 2, tokens, 1))
    self.dim_mapper = nn.Linear(width, dim)

  def encode(self, fmri):
    """fMRI B V -> tokens B L D."""
    x = self.mae.patch_embed.proj(fmri[:, None]).transpose(1, 2) + self.mae.pos_embed[:, 1:]
    for block in self.mae.blocks:
      x = block(x)
    return self.mae.norm(x.mean(1, keepdim=True) if self.pooled else x)

  def forward(self, fmri):
    """fMRI B V -> context B T C."""
    x = self.encode(fmri)
    return self.dim_mapper(x if self.pooled else self.channel_mapper(x))


class TimeConditioner(Conditioner):
  """The conditioner with the addition to the time embedding of the UNet; arguments as of `Conditioner`."""

  def __init__(self, *args, time_width: int, **kwargs):
    super().__init__(*args, **kwargs)
    dim, tokens = self.dim_mapper.out_features, self.channel_mapper[1].out_channels
    self.time = nn.Sequential(
      nn.Conv1d(tokens, tokens // 2, 1), nn.Conv1d(tokens // 2, 1, 1), nn.Linear(dim, time_width)
    )

  def forward(self, fmri):
    """fMRI B V -> context B T C, addition B E."""
    context = super().forward(fmri)
    return context, self.time(context)[:, 0]


def patches_of(images, patch: int):
  """Pictures B 3 H W -> B L (p p 3)."""
  columns = F.unfold(images, patch, stride=patch)  # B (3 p p) L
  return columns.unflatten(1, (3, patch**2)).permute(0, 3, 2, 1).flatten(2)


def masked_error(pred, target, mask):
  """Mean squared error of the removed patches."""
  return ((pred - target).square().mean(-1) * mask).sum() / mask.sum()


def info_nce(queries, keys):
  """Cross-entropy of cosines over 0.1 against the diagonal."""
  cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T
  return F.cross_entropy(cosines / 0.1, torch.arange(len(queries), device=queries.device))
