"""Tests of the rendered scenes and their categories."""

import numpy as np
import pytest

from brainjax.simulator import shapes, stimuli


def _attributes(**values):
  row = {'shape': 'disc', 'colour': 'red', 'texture': 'plain', 'background': 'night', 'layout': 'centre', **values}
  return [names.index(row[key]) for key, names in stimuli.ATTRIBUTES.items()]


@pytest.mark.parametrize('seed', [0, 7])
def test_categories_are_balanced_and_apart(seed):
  categories = stimuli.categories(seed)
  table = categories.attributes
  assert table.shape == (200, 5)
  differences = (table[:, None] != table[None]).sum(-1)
  assert differences[~np.eye(200, dtype=bool)].min() >= 2
  for column, size in zip(table.T, stimuli.NUM_VALUES, strict=True):
    train, test = (np.bincount(column[rows], minlength=size) for rows in (categories.train, categories.test))
    assert train.min() >= 150 // size and train.max() <= 150 // size + 1
    assert test.min() >= 50 // size and test.max() <= 50 // size + 1
  assert len(set(categories.names)) == 200
  assert all(len(i) == 9 and i[0] == 'n' and int(i[1:]) == n
             for i, n in zip(categories.wordnet_ids, categories.ids, strict=True))  # fmt: skip


def test_categories_follow_the_seed():
  assert not np.array_equal(stimuli.categories(0).attributes, stimuli.categories(1).attributes)
  assert np.array_equal(stimuli.categories.__wrapped__(0).attributes, stimuli.categories(0).attributes)


def test_random_attributes_cover_everything_but_the_excluded():
  banned = stimuli.categories().test_attributes
  rows = stimuli.random_attributes(np.random.default_rng(0), 60_000, exclude=banned)
  found = set(map(tuple, rows.tolist()))
  assert not found & set(map(tuple, banned.tolist()))
  assert len(found) > 0.9 * np.prod(stimuli.NUM_VALUES)
  assert rows.max(0).tolist() == [size - 1 for size in stimuli.NUM_VALUES] and rows.min() == 0


def test_seeds_make_pictures():
  rows = stimuli.categories().attributes[:9]
  together = stimuli.render(rows, np.arange(9), 32)
  assert together.shape == (9, 32, 32, 3) and together.dtype == np.uint8
  assert np.array_equal(stimuli.render(rows[4:], np.arange(4, 9), 32), together[4:])
  assert all((a != b).any() for a, b in zip(stimuli.render(rows, np.arange(9, 18), 32), together, strict=True))
  with pytest.raises(ValueError, match='5'):
    stimuli.render(rows[:, :4], np.arange(9))
  with pytest.raises(ValueError, match='seeds'):
    stimuli.render(rows, np.arange(8))


def test_small_pictures_are_large_ones_averaged():
  rows = stimuli.random_attributes(np.random.default_rng(3), 60)
  small, large = (stimuli.render(rows, np.arange(60), size).astype(np.float32) for size in (64, 256))
  averaged = large.reshape(60, 64, 4, 64, 4, 3).mean((2, 4))
  assert np.abs(averaged - small).mean() < 1.0
  assert np.corrcoef(averaged.ravel(), small.ravel())[0, 1] > 0.998


def test_a_disc_has_the_area_place_and_colour_of_its_parameters():
  rows = np.array([_attributes(layout=layout) for layout in ('centre', 'left', 'right', 'top', 'bottom')])
  images, scenes = stimuli.render(rows, np.arange(5), 128, return_scenes=True)
  bare = stimuli.Scenes(**{**vars(scenes), 'radius': np.full(5, 1e-3, np.float32)})
  covered = np.abs(images.astype(int) - stimuli.draw(bare, 128)).max(-1) > 20
  area = covered.sum((1, 2)) * (2 / 128) ** 2
  np.testing.assert_allclose(area, np.pi * (0.88 * scenes.radius) ** 2, rtol=0.05)
  axis = (np.arange(128) + 0.5) / 64 - 1
  centre = (
    np.stack([(covered * axis).sum((1, 2)), (covered * axis[:, None]).sum((1, 2))], 1) / covered.sum((1, 2))[:, None]
  )
  place = np.array([(0, 0), (-0.47, 0), (0.47, 0), (0, -0.47), (0, 0.47)])
  np.testing.assert_allclose(centre, place + scenes.centre, atol=0.03)
  np.testing.assert_allclose(scenes.parameters()[:, :2], 2 * (place + scenes.centre), atol=1e-6)
  for image, disc in zip(images, covered, strict=True):
    red, green, blue = np.median(image[disc], axis=0)
    assert red > 2 * max(green, blue)


def test_every_attribute_changes_the_picture():
  base = stimuli.render(np.array([_attributes()]), [5], 64)[0].astype(int)
  for column, size in enumerate(stimuli.NUM_VALUES):
    seen = [base]
    for value in range(1, size):
      row = np.array([_attributes()])
      row[0, column] = value
      image = stimuli.render(row, [5], 64)[0].astype(int)
      assert min(np.abs(image - other).mean() for other in seen) > 0.5
      seen.append(image)


def test_shapes_are_distances():
  # A signed distance has slope 1 across the edge: the edge's smoothing has the same width everywhere.
  axis = np.linspace(-1.2, 1.2, 481, dtype=np.float32)
  for shape in stimuli.SHAPES:
    distance = shapes.signed_distance(shape, axis[None], axis[:, None])
    down, right = np.gradient(distance, axis, axis)
    slope = np.hypot(down, right)[np.abs(distance) < 0.02]
    assert 0.9 < np.median(slope) < 1.1, shape
    share = (distance < 0).mean()
    assert 0.1 < share * (2.4 / 2) ** 2 < 0.65, shape
    edge = np.concatenate([distance[0], distance[-1], distance[:, 0], distance[:, -1]])
    assert edge.min() > 0, shape


def test_hues():
  rgb = shapes.hsv_to_rgb(
    np.array([(0, 1, 1), (1 / 3, 1, 1), (2 / 3, 1, 0.5), (1 / 6, 0.5, 1), (0.7, 0, 0.3)], np.float32)
  )
  expected = [(1, 0, 0), (0, 1, 0), (0, 0, 0.5), (1, 1, 0.5), (0.3, 0.3, 0.3)]
  np.testing.assert_allclose(rgb, expected, atol=1e-5)
