"""The denoising UNet and the first stage in PyTorch, written from their description, under the published names."""

import torch
import torch.nn.functional as F
from torch import nn


def group_norm(channels, eps):
  return nn.GroupNorm(32, channels, eps=eps)


def conv(inner, outer, **options):
  return nn.Conv2d(inner, outer, 3, padding=1, **options)


def attend(q, k, v, heads):
  """B L D, B M D, B M D -> B L D."""
  q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
  scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
  return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def time_embedding(t, width):
  half = width // 2
  angles = t[:, None].float() * torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(half) / half)
  return torch.cat([angles.cos(), angles.sin()], 1)


class TimeStep(nn.Module):
  """A residual block of the UNet."""

  def __init__(self, inner, outer, emb):
    super().__init__()
    self.in_layers = nn.Sequential(group_norm(inner, 1e-5), nn.SiLU(), conv(inner, outer))
    self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, outer))
    self.out_layers = nn.Sequential(group_norm(outer, 1e-5), nn.SiLU(), nn.Dropout(0), conv(outer, outer))
    self.skip_connection = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

  def forward(self, x, emb, context):
    h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
    return self.skip_connection(x) + self.out_layers(h)


class CrossAttention(nn.Module):
  def __init__(self, width, source, heads):
    super().__init__()
    self.heads = heads
    self.to_q, self.to_k, self.to_v = (nn.Linear(n, width, bias=False) for n in (width, source, source))
    self.to_out = nn.Sequential(nn.Linear(width, width))

  def forward(self, x, source):
    return self.to_out(attend(self.to_q(x), self.to_k(source), self.to_v(source), self.heads))


class Gated(nn.Module):
  def __init__(self, width):
    super().__init__()
    self.proj = nn.Linear(width, 8 * width)

  def forward(self, x):
    value, gate = self.proj(x).chunk(2, -1)
    return value * F.gelu(gate)


class TransformerBlock(nn.Module):
  def __init__(self, width, source, heads):
    super().__init__()
    self.attn1, self.attn2 = CrossAttention(width, width, heads), CrossAttention(width, source, heads)
    self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
    self.ff = nn.ModuleDict({'net': nn.Sequential(Gated(width), nn.Dropout(0), nn.Linear(4 * width, width))})

  def forward(self, x, context):
    y = self.norm1(x)
    x = x + self.attn1(y, y)
    x = x + self.attn2(self.norm2(x), context)
    return x + self.ff['net'](self.norm3(x))


class Spatial(nn.Module):
  def __init__(self, channels, source, heads):
    super().__init__()
    self.norm, self.proj_in, self.proj_out = (
      group_norm(channels, 1e-6), nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
    )  # fmt: skip
    self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, source, heads)])

  def forward(self, x, emb, context):
    h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
    for block in self.transformer_blocks:
      h = block(h, context)
    return x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class Down(nn.Module):
  def __init__(self, channels):
    super().__init__()
    self.op = conv(channels, channels, stride=2)

  def forward(self, x, emb, context):
    return self.op(x)


class Up(nn.Module):
  def __init__(self, channels):
    super().__init__()
    self.conv = conv(channels, channels)

  def forward(self, x, emb, context):
    return self.conv(F.interpolate(x, scale_factor=2))


class First(nn.Conv2d):
  def forward(self, x, emb, context):
    return super().forward(x)


class UNet(nn.Module):
  """`heads(channels)`: how many each attention has; `tokens`: of the condition, None without time condition, 1 pooled."""

  def __init__(self, channels, base, mults, blocks, attention, dim, heads, tokens):
    super().__init__()
    emb = 4 * base
    self.base = base
    self.time_embed = nn.Sequential(nn.Linear(base, emb), nn.SiLU(), nn.Linear(emb, emb))
    if tokens == 1:
      self.time_embed_condtion = nn.Linear(dim, emb)
    elif tokens:
      half = tokens // 2
      self.time_embed_condtion = nn.Sequential(nn.Conv1d(tokens, half, 1), nn.Conv1d(half, 1, 1), nn.Linear(dim, emb))
    self.condition = bool(tokens)
    self.input_blocks = nn.ModuleList([nn.ModuleList([First(channels, base, 3, padding=1)])])
    widths, now = [base], base

    def entry(inner, outer, level):
      parts = [TimeStep(inner, outer, emb)]
      return parts + [Spatial(outer, dim, heads(outer))] * (2**level in attention)

    for level, mult in enumerate(mults):
      for _ in range(blocks):
        self.input_blocks.append(nn.ModuleList(entry(now, mult * base, level)))
        now = mult * base
        widths.append(now)
      if level < len(mults) - 1:
        self.input_blocks.append(nn.ModuleList([Down(now)]))
        widths.append(now)
    self.middle_block = nn.ModuleList([TimeStep(now, now, emb), Spatial(now, dim, heads(now)), TimeStep(now, now, emb)])
    self.output_blocks = nn.ModuleList()
    for level, mult in reversed(list(enumerate(mults))):
      for i in range(blocks + 1):
        parts = entry(now + widths.pop(), mult * base, level)
        now = mult * base
        if level and i == blocks:
          parts.append(Up(now))
        self.output_blocks.append(nn.ModuleList(parts))
    self.out = nn.Sequential(group_norm(now, 1e-5), nn.SiLU(), conv(now, channels))

  def forward(self, x, t, context, taps=None):
    emb = self.time_embed(time_embedding(t, self.base))
    if self.condition:
      emb = emb + self.time_embed_condtion(context)[:, 0]
    skips, taps = [], {} if taps is None else taps
    for number, parts in enumerate(self.input_blocks):
      x = self._run(parts, x, emb, context)
      taps[f'input_{number}'] = x
      skips.append(x)
    x = taps['middle'] = self._run(self.middle_block, x, emb, context)
    for parts in self.output_blocks:
      x = self._run(parts, torch.cat([x, skips.pop()], 1), emb, context)
    return self.out(x)

  @staticmethod
  def _run(parts, x, emb, context):
    for part in parts:
      x = part(x, emb, context)
    return x


# --- first stage --------------------------------------------------------------------------------------------------


class Res(nn.Module):
  def __init__(self, inner, outer):
    super().__init__()
    self.norm1, self.conv1 = group_norm(inner, 1e-6), conv(inner, outer)
    self.norm2, self.conv2 = group_norm(outer, 1e-6), conv(outer, outer)
    if inner != outer:
      self.nin_shortcut = nn.Conv2d(inner, outer, 1)

  def forward(self, x):
    h = self.conv1(F.silu(self.norm1(x)))
    h = self.conv2(F.silu(self.norm2(h)))
    return h + (self.nin_shortcut(x) if hasattr(self, 'nin_shortcut') else x)


class SelfAttention(nn.Module):
  def __init__(self, channels):
    super().__init__()
    self.norm = group_norm(channels, 1e-6)
    self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

  def forward(self, x):
    y = self.norm(x)
    q, k, v = (part(y).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
    return x + self.proj_out(attend(q, k, v, 1).transpose(1, 2).unflatten(2, x.shape[2:]))


class Shrink(nn.Module):
  def __init__(self, channels):
    super().__init__()
    self.conv = nn.Conv2d(channels, channels, 3, stride=2)

  def forward(self, x):
    return self.conv(F.pad(x, (0, 1, 0, 1)))


class Grow(nn.Module):
  def __init__(self, channels):
    super().__init__()
    self.conv = conv(channels, channels)

  def forward(self, x):
    return self.conv(F.interpolate(x, scale_factor=2))


def middle(channels):
  return nn.ModuleDict(
    {'block_1': Res(channels, channels), 'attn_1': SelfAttention(channels), 'block_2': Res(channels, channels)}
  )


class Half(nn.Module):
  """Encoder or decoder; `attention`: levels with attention after each block."""

  def __init__(self, inner, ch, mults, blocks, outer, attention, down):
    super().__init__()
    widths = [mult * ch for mult in mults]
    now = ch if down else widths[-1]
    self.down_first = down
    self.conv_in = conv(inner, now)
    if not down:
      self.mid = middle(now)
    levels = [None] * len(widths)
    for level in range(len(widths)) if down else reversed(range(len(widths))):
      parts, attns = nn.ModuleList(), nn.ModuleList()
      for _ in range(blocks + (not down)):
        parts.append(Res(now, widths[level]))
        now = widths[level]
        if level in attention:
          attns.append(SelfAttention(now))
      levels[level] = nn.ModuleDict({'block': parts, 'attn': attns})
      if down and level < len(widths) - 1:
        levels[level]['downsample'] = Shrink(now)
      if not down and level:
        levels[level]['upsample'] = Grow(now)
    setattr(self, 'down' if down else 'up', nn.ModuleList(levels))
    if down:
      self.mid = middle(now)
    self.norm_out, self.conv_out = group_norm(now, 1e-6), conv(now, outer)

  def forward(self, x):
    x = self.conv_in(x)
    levels = self.down if self.down_first else reversed(self.up)
    if not self.down_first:
      x = self._middle(x)
    for level in levels:
      for number, block in enumerate(level['block']):
        x = block(x)
        if len(level['attn']):
          x = level['attn'][number](x)
      for name in ('downsample', 'upsample'):
        x = level[name](x) if name in level else x
    if self.down_first:
      x = self._middle(x)
    return self.conv_out(F.silu(self.norm_out(x)))

  def _middle(self, x):
    return self.mid['block_2'](self.mid['attn_1'](self.mid['block_1'](x)))


class VQ(nn.Module):
  def __init__(self, ch, mults, blocks, z, embed, codes, attention=()):
    super().__init__()
    self.encoder = Half(3, ch, mults, blocks, z, attention, True)
    self.decoder = Half(z, ch, mults, blocks, 3, attention, False)
    self.quantize = nn.ModuleDict({'embedding': nn.Embedding(codes, embed)})
    self.quant_conv, self.post_quant_conv = nn.Conv2d(z, embed, 1), nn.Conv2d(embed, z, 1)

  def encode(self, x):
    return self.quant_conv(self.encoder(x))

  def nearest(self, latent):
    """Indices B h w, and the codes B C h w."""
    codes, z = self.quantize['embedding'].weight, latent.permute(0, 2, 3, 1)
    indices = (z.unsqueeze(-2) - codes).square().sum(-1).argmin(-1)
    return indices, codes[indices].permute(0, 3, 1, 2)

  def decode(self, latent, quantize=True):
    return self.decoder(self.post_quant_conv(self.nearest(latent)[1] if quantize else latent))
