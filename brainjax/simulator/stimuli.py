"""Rendered scenes whose categories are compositions of attributes: the pictures that a simulated subject sees.

A category is a tuple (shape, colour, texture, background, layout). Training and test categories share the attribute
values but no combination, so that an unseen category can be decoded from seen parts.
"""

import dataclasses
import functools

import numpy as np

from brainjax.simulator import shapes

SHAPES = ('disc', 'square', 'triangle', 'star', 'ring', 'cross', 'crescent', 'heart', 'hexagon', 'bar')
COLOURS = ('red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink')
TEXTURES = ('plain', 'striped', 'dotted', 'checkered', 'shaded')
BACKGROUNDS = ('night', 'snow', 'sky', 'dusk', 'tiles', 'meadow', 'sand', 'ocean')
LAYOUTS = ('centre', 'left', 'right', 'top', 'bottom', 'pair')
ATTRIBUTES = {'shape': SHAPES, 'colour': COLOURS, 'texture': TEXTURES, 'background': BACKGROUNDS, 'layout': LAYOUTS}
NUM_VALUES = tuple(len(values) for values in ATTRIBUTES.values())

NUM_TRAIN, NUM_TEST = 150, 50
_FIRST_ID = 90_000_001  # no WordNet noun has so high a number

# Hue (turns), saturation, value of the object colours.
_COLOUR_HSV = np.array(
  [
    (0.0, 0.86, 0.88),
    (0.083, 0.9, 0.97),
    (0.145, 0.82, 0.99),
    (0.37, 0.78, 0.66),
    (0.51, 0.75, 0.86),
    (0.625, 0.82, 0.9),
    (0.765, 0.7, 0.72),
    (0.92, 0.5, 0.98),
  ],
  np.float32,
)
# Two RGB colours of each background: from top to bottom, or from one part of the pattern to the other.
_BACKGROUND_RGB = (
  np.array(
    [
      ((14, 16, 36), (34, 36, 66)),
      ((244, 246, 250), (226, 230, 238)),
      ((92, 156, 214), (214, 232, 246)),
      ((66, 40, 92), (222, 140, 96)),
      ((66, 68, 74), (108, 110, 116)),
      ((84, 124, 66), (118, 158, 90)),
      ((216, 194, 152), (188, 160, 118)),
      ((20, 64, 80), (38, 98, 112)),
    ],
    np.float32,
  )
  / 255
)
# Object centres (x to the right, y down, picture = [-1, 1]^2) and radius of each layout.
_PLACES = {
  'centre': ([(0.0, 0.0)], 0.6),
  'left': ([(-0.47, 0.0)], 0.43),
  'right': ([(0.47, 0.0)], 0.43),
  'top': ([(0.0, -0.47)], 0.43),
  'bottom': ([(0.0, 0.47)], 0.43),
  'pair': ([(-0.47, 0.0), (0.47, 0.0)], 0.37),
}
_NUM_DRAWS = 20
_CHUNK_PIXELS = 1 << 16  # arrays of this many float32 stay in the processor's cache


@dataclasses.dataclass(frozen=True)
class Categories:
  """The 200 categories, by class index: `NUM_TRAIN` training categories, then `NUM_TEST` test categories."""

  attributes: np.ndarray  # (200, 5) int: shape, colour, texture, background, layout
  ids: np.ndarray  # (200,) int: the number in the WordNet-like id
  names: tuple[str, ...]

  @property
  def train(self) -> np.ndarray:
    """Class indices of the training categories, (150,)."""
    return np.arange(NUM_TRAIN)

  @property
  def test(self) -> np.ndarray:
    """Class indices of the test categories, (50,)."""
    return np.arange(NUM_TRAIN, NUM_TRAIN + NUM_TEST)

  @property
  def test_attributes(self) -> np.ndarray:
    """Attribute rows of the test categories, (50, 5), on which a prior must not train."""
    return self.attributes[NUM_TRAIN:]

  @property
  def wordnet_ids(self) -> tuple[str, ...]:
    """Ids as in the class index of GOD: 'n' and eight digits."""
    return tuple(f'n{number:08d}' for number in self.ids)


def name(attributes: np.ndarray) -> str:
  """Formats one attribute row, as in 'red striped star on night, left'."""
  words = [values[i] for values, i in zip(ATTRIBUTES.values(), attributes, strict=True)]
  shape, colour, texture, background, layout = words
  return f'{colour} {texture} {shape} on {background}, {layout}'


@functools.cache
def categories(seed: int = 0) -> Categories:
  """Draws the categories. Attributes are balanced in both sets; two categories differ in at least two attributes."""
  rng = np.random.default_rng([seed, 1])

  def balanced(rows: int) -> np.ndarray:
    return np.stack([rng.permutation(np.resize(rng.permutation(n), rows)) for n in NUM_VALUES], axis=1)

  table = np.concatenate([balanced(NUM_TRAIN), balanced(NUM_TEST)])
  while True:
    differences = (table[:, None] != table[None]).sum(-1) + len(NUM_VALUES) * np.eye(len(table), dtype=int)
    clashes = np.flatnonzero(differences.min(1) < 2)
    if not len(clashes):
      break
    # Exchange one value of a clashing row with another row of the same set: the balance stays.
    row, column = clashes[0], rng.integers(len(NUM_VALUES))
    other = rng.integers(NUM_TRAIN) if row < NUM_TRAIN else NUM_TRAIN + rng.integers(NUM_TEST)
    table[[row, other], column] = table[[other, row], column]
  table.setflags(write=False)
  return Categories(table, _FIRST_ID + np.arange(len(table)), tuple(name(row) for row in table))


def random_attributes(rng: np.random.Generator, count: int, exclude: np.ndarray | None = None) -> np.ndarray:
  """Draws uniform attribute rows, (count, 5) int, without those in `exclude` (K, 5), to train a prior on."""
  banned = np.empty(0, int) if exclude is None else np.ravel_multi_index(np.asarray(exclude).T, NUM_VALUES)
  allowed = np.setdiff1d(np.arange(np.prod(NUM_VALUES)), banned)
  return np.stack(np.unravel_index(rng.choice(allowed, count), NUM_VALUES), axis=1)


@dataclasses.dataclass(frozen=True)
class Scenes:
  """Everything that determines N pictures: attributes and the continuous parameters of each instance, all float32."""

  attributes: np.ndarray  # (N, 5) int
  centre: np.ndarray  # (N, 2) x, y shift of the layout's place, picture = [-1, 1]
  radius: np.ndarray  # (N,) object radius, picture half widths
  angle: np.ndarray  # (N,) rotation, radians
  colour: np.ndarray  # (N, 3) hue (turns), saturation, value of the object
  phase: np.ndarray  # (N, 2) texture phase in periods
  background: np.ndarray  # (N, 2, 3) the two background colours, RGB in [0, 1]
  pattern: np.ndarray  # (N, 4) background pattern: scale, tilt in radians, phase x, phase y
  light: np.ndarray  # (N, 2) illumination gradient, relative change per half picture along x, y

  def __len__(self) -> int:
    return len(self.attributes)

  def __getitem__(self, rows: slice | np.ndarray) -> 'Scenes':
    return Scenes(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

  def parameters(self) -> np.ndarray:
    """Describes scenes by numbers for the semantic voxels, (N, 11) float32, each column roughly in [-1, 1].

    The columns: x, y, size, number of objects, saturation times cos and sin of the hue, value, luminance and two colour
    differences of the background, tilt.
    """
    place = np.array([np.mean(_PLACES[layout][0], axis=0) for layout in LAYOUTS], np.float32)[self.attributes[:, 4]]
    number = np.array([len(_PLACES[layout][0]) for layout in LAYOUTS], np.float32)[self.attributes[:, 4]]
    hue, saturation, value = self.colour.T
    backdrop = self.background.mean(1)
    luminance = backdrop @ np.array([0.299, 0.587, 0.114], np.float32)
    columns = [
      *(2 * (place + self.centre).T),
      6 * (self.radius - 0.45),
      number - 1,
      saturation * np.cos(2 * np.pi * hue),
      saturation * np.sin(2 * np.pi * hue),
      3 * (value - 0.85),
      2 * luminance - 1,
      4 * (backdrop[:, 0] - backdrop[:, 1]),
      4 * (backdrop[:, 2] - backdrop[:, 1]),
      3 * self.angle,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def sample_scenes(attributes: np.ndarray, seeds: np.ndarray | np.random.Generator) -> Scenes:
  """Draws instances of categories.

  Args:
    attributes: N 5.
    seeds: a generator; or N integers, on which alone the pictures then depend.

  Raises:
    ValueError: the shape is another, or there are not N seeds.
  """
  attributes = np.asarray(attributes)
  if attributes.ndim != 2 or attributes.shape[1] != len(NUM_VALUES):
    raise ValueError(f'attributes must have shape (N, {len(NUM_VALUES)}), found {attributes.shape}')
  if isinstance(seeds, np.random.Generator):
    draws = seeds.random((len(attributes), _NUM_DRAWS))
  else:
    draws = np.stack([np.random.default_rng([int(seed), 2]).random(_NUM_DRAWS) for seed in np.asarray(seeds)])
    if len(draws) != len(attributes):
      raise ValueError(f'{len(attributes)} attribute rows but {len(draws)} seeds')
  draws = draws.astype(np.float32)
  signed = 2 * draws - 1
  radius = np.array([_PLACES[layout][1] for layout in LAYOUTS], np.float32)[attributes[:, 4]]
  colour = _COLOUR_HSV[attributes[:, 1]] + signed[:, 4:7] * np.array([0.018, 0.08, 0.06], np.float32)
  backdrop = (
    _BACKGROUND_RGB[attributes[:, 3]] * (1 + 0.12 * signed[:, 9, None, None]) * (1 + 0.07 * signed[:, None, 10:13])
  )
  pattern = np.stack([1 + 0.15 * signed[:, 13], 0.12 * signed[:, 14], draws[:, 15], draws[:, 16]], axis=1)
  return Scenes(
    attributes=attributes,
    centre=0.09 * signed[:, :2],
    radius=radius * (1 + 0.13 * signed[:, 2]),
    angle=0.3 * signed[:, 3],
    colour=np.concatenate([colour[:, :1] % 1, np.clip(colour[:, 1:], 0, 1)], axis=1),
    phase=draws[:, 7:9],
    background=np.clip(backdrop, 0, 1),
    pattern=pattern,
    light=0.1 * signed[:, 17:19],
  )


def render(
  attributes: np.ndarray, seeds: np.ndarray | np.random.Generator, size: int = 64, return_scenes: bool = False
) -> np.ndarray | tuple[np.ndarray, Scenes]:
  """Renders one instance of each attribute row: uint8 N size size 3 (and its `Scenes` if asked for)."""
  scenes = sample_scenes(attributes, seeds)
  images = draw(scenes, size)
  return (images, scenes) if return_scenes else images


def draw(scenes: Scenes, size: int) -> np.ndarray:
  """Draws scenes at any size: uint8 N size size 3. Edges are analytic, so sizes agree up to a pixel's averaging."""
  images = np.empty((len(scenes), size, size, 3), np.uint8)
  chunk = max(1, _CHUNK_PIXELS // size**2)
  for start in range(0, len(scenes), chunk):
    rows = np.arange(start, min(start + chunk, len(scenes)))
    images[rows] = _draw_chunk(scenes, rows, size)
  return images


def _draw_chunk(scenes: Scenes, rows: np.ndarray, size: int) -> np.ndarray:
  attributes = scenes.attributes[rows]
  pixel = np.float32(2 / size)
  axis = (np.arange(size, dtype=np.float32) + 0.5) * pixel - 1
  x, y = axis[None, None, :], axis[None, :, None]
  # Background: a weight between its two colours.
  weight = np.empty((len(rows), size, size), np.float32)
  for kind in np.unique(attributes[:, 3]):
    group = attributes[:, 3] == kind
    weight[group] = shapes.backdrop(BACKGROUNDS[kind], x, y, scenes.pattern[rows[group]].T[:, :, None, None], pixel)
  first, second = scenes.background[rows, 0], scenes.background[rows, 1]
  # Objects: coverage and, inside, the weight of the texture's second colour.
  inside = np.zeros_like(weight)
  rim = np.zeros_like(weight)
  texture = np.zeros_like(weight)
  for kind, surface, layout in np.unique(attributes[:, [0, 2, 4]], axis=0):
    group = np.flatnonzero((attributes[:, [0, 2, 4]] == (kind, surface, layout)).all(1))
    index = rows[group]
    radius = scenes.radius[index, None, None]
    cos, sin = np.cos(scenes.angle[index])[:, None, None], np.sin(scenes.angle[index])[:, None, None]
    for place_x, place_y in _PLACES[LAYOUTS[layout]][0]:
      dx = (x - place_x - scenes.centre[index, 0, None, None]) / radius
      dy = (y - place_y - scenes.centre[index, 1, None, None]) / radius
      u, v = cos * dx + sin * dy, cos * dy - sin * dx
      distance = shapes.signed_distance(SHAPES[kind], u, v)
      footprint = pixel / radius
      covered = shapes.cover(distance, footprint)
      inside[group] = np.maximum(inside[group], covered)
      rim[group] = np.maximum(rim[group], covered - shapes.cover(distance + 0.09, footprint))
      texture[group] += covered * shapes.texture(
        TEXTURES[surface], u, v, scenes.phase[index].T[:, :, None, None], footprint
      )
  colour = shapes.hsv_to_rgb(scenes.colour[rows])
  texture = np.minimum(texture, 1)
  tint = np.where((attributes[:, 2] == TEXTURES.index('shaded'))[:, None], 0.22 * colour, 0.3 * colour + 0.7)
  shade = 1 + scenes.light[rows, 0, None, None] * x + scenes.light[rows, 1, None, None] * y
  dim = (1 - 0.6 * rim) * shade * 255
  shade *= 255
  image = np.empty((*weight.shape, 3), np.uint8)
  for channel in range(3):
    ground = (first[:, channel, None, None] + weight * (second - first)[:, channel, None, None]) * shade
    thing = (colour[:, channel, None, None] + texture * (tint - colour)[:, channel, None, None]) * dim
    ground += inside * (thing - ground)
    image[..., channel] = np.clip(ground + 0.5, 0, 255)
  return image
