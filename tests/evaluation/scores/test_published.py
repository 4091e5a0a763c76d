"""The scores of published tables: MindEye's formulas written out, scikit-image, SciPy, and every draw of a retrieval."""

import itertools

import numpy as np
import pytest
from scipy.spatial import distance
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from brainjax.evaluation.networks import published as networks
from brainjax.evaluation.scores import pixels, published
from brainjax.evaluation.scores.published import Compared
from brainjax.evaluation.scores.tables import Measured

NUM_STIMULI, NUM_SAMPLES, SIZE = 7, 2, (8, 9)


def pictures(noise=60.0):
  rng = np.random.default_rng(0)
  stimuli = rng.integers(0, 256, (NUM_STIMULI, *SIZE, 3), dtype=np.uint8)
  drawn = stimuli[:, None] + rng.normal(0, noise, (NUM_STIMULI, NUM_SAMPLES, *SIZE, 3))
  return stimuli, np.clip(drawn, 0, 255).astype(np.uint8)


def features(images):
  """A network that is a random projection."""
  flat = images.reshape(len(images), -1) / 255
  return (flat @ np.random.default_rng(1).normal(size=(flat.shape[1], 5))).astype(np.float32)


def compare(columns, function, samples, stimuli):
  return published.measure(samples, stimuli, {name: Compared(function, function(stimuli)) for name in columns})


def enlarged(image):
  """As torchvision's Resize enlarges a tensor, by torch in float64."""
  torch = pytest.importorskip('torch')
  x = torch.tensor(image).permute(2, 0, 1)[None].double() / 255
  for side in (256, 425):
    x = torch.nn.functional.interpolate(x, (side, side), mode='bilinear', align_corners=False)
  return x[0].permute(1, 2, 0).numpy()


def test_pixcorr_and_ssim_equal_numpy_and_scikit_image():
  stimuli, samples = pictures()
  stimuli, samples = stimuli[:3], samples[:3, :1]
  function = networks.load(['pixels']).functions['pixcorr']
  found = published.scores(compare(['pixcorr'], function, samples, stimuli), np.arange(3))
  assert list(found) == ['pixcorr', 'ssim_grey'] and all(score.higher_is_better for score in found.values())
  large = [[enlarged(image) for image in images] for images in (samples[:, 0], stimuli)]
  for i, j in ((0, 0), (1, 1), (2, 0)):
    a, b = large[0][i], large[1][j]
    assert found['pixcorr'].table[i, 0, j] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-5)
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    expected = structural_similarity(rgb2gray(a), rgb2gray(b), **options)
    assert found['ssim_grey'].table[i, 0, j] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('shape', [(300, 40), (256, 256)])
def test_pictures_become_smaller_without_antialiasing(shape):
  torch = pytest.importorskip('torch')
  images = np.random.default_rng(2).uniform(0, 255, (2, *shape, 3)).astype(np.float32)
  x = torch.tensor(images.transpose(0, 3, 1, 2))
  for side in (256, 224):
    x = torch.nn.functional.interpolate(x, (side, side), mode='bilinear', align_corners=False)
  np.testing.assert_allclose(pixels.resize(images, 224), x.numpy().transpose(0, 2, 3, 1), atol=2e-3)


def test_two_way_identification_and_distance_equal_mindeyes_formulas():
  stimuli, samples = pictures(noise=200)
  found = published.scores(compare(['alexnet2', 'swav'], features, samples, stimuli), np.arange(NUM_STIMULI))
  assert found['swav'].higher_is_better is False and found['alexnet2'].chance == 0.5
  real = features(stimuli)
  for s in range(NUM_SAMPLES):
    made = features(samples[:, s])
    r = np.corrcoef(real, made)[:NUM_STIMULI, NUM_STIMULI:]  # real x made
    share = np.sum(r < np.diag(r), axis=0) / (NUM_STIMULI - 1)
    assert 0 < share.mean() < 1
    np.testing.assert_allclose(np.diagonal(found['alexnet2'].table[:, s]), share)
    expected = [distance.correlation(real[i], made[i]) for i in range(NUM_STIMULI)]
    np.testing.assert_allclose(np.diagonal(found['swav'].table[:, s]), expected, atol=1e-5)


def retrievals(cosine, ways, own, candidates):
  """Share of all draws of ways - 1 others in which the right one is nearest. `cosine`: of each candidate."""
  others = [i for i in candidates if i != own]
  draws = list(itertools.combinations(others, ways - 1))
  return np.mean([all(cosine[own] > cosine[i] for i in draw) for draw in draws])


@pytest.mark.parametrize('ways', [3, 7])
def test_retrieval_equals_the_mean_over_every_draw(monkeypatch, ways):
  monkeypatch.setattr(published, 'CANDIDATES', ways)
  stimuli, samples = pictures(noise=120)
  stimulus = np.array([3, 0, 6, 1, 5, 2, 4])  # items in another order than the stimuli
  found = published.scores(compare(['clip'], features, samples[stimulus], stimuli), stimulus)
  assert list(found) == ['clip', 'retrieval_image', 'retrieval_brain']
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  real, everything = unit(features(stimuli)), range(NUM_STIMULI)
  influence = found['retrieval_brain'].influence(stimulus, 'first_sample')
  brain = np.zeros((NUM_STIMULI, NUM_SAMPLES))
  for s in range(NUM_SAMPLES):
    cosine = unit(features(samples[:, s])) @ real.T  # of the reconstruction of each stimulus with each stimulus
    for item, own in enumerate(stimulus):
      image = retrievals(cosine[own], ways, own, everything)
      brain[own, s] = retrievals(cosine[:, own], ways, own, everything)
      assert found['retrieval_image'].table[item, s, own] == pytest.approx(image)
      assert found['retrieval_brain'].table[item, s, own] == pytest.approx(brain[own, s])
    if ways == 3 and s == 0:  # leaving a reconstruction out of the candidates
      for v in everything:
        kept = [u for u in everything if u != v]
        change = np.mean([retrievals(cosine[:, u], ways, u, kept) - brain[u, 0] for u in kept])
        assert influence[v] == pytest.approx(-(NUM_STIMULI - 1) * change)
  assert 0 < brain.mean() < 1 and found['retrieval_brain'].chance == 1 / ways


def test_retrieval_among_300_of_more():
  """The closed form against drawn candidates, as MindEye draws them."""
  rng = np.random.default_rng(3)
  real = rng.normal(size=(400, 6)).astype(np.float32)
  made = real + rng.normal(0, 0.3, real.shape).astype(np.float32)
  table = published.cosine_table(made, real)
  found = published._retrievals(published.Measure(table[:, None], True), np.arange(400))
  drawn = []
  for _ in range(60):
    chosen = rng.choice(400, 300, replace=False)
    part = table[np.ix_(chosen, chosen)]
    drawn.append([np.mean(part.argmax(axis=axis) == np.arange(300)) for axis in (1, 0)])
  mean, error = np.mean(drawn, axis=0), np.std(drawn, axis=0) / np.sqrt(60)
  for name, value, spread in zip(published.RETRIEVALS, mean, error, strict=True):
    assert np.diagonal(found[name].table[:, 0]).mean() == pytest.approx(value, abs=4 * spread)
    assert 'top-1 of 300' in found[name].text


def test_items_of_one_stimulus_and_subsets():
  stimuli, samples = pictures()
  measures = compare(['clip', 'effnet'], features, samples, stimuli)
  twice = np.array([0, 1, 2, 3, 4, 5, 5])
  assert list(published.scores(measures, twice)) == ['clip', 'effnet', 'retrieval_image']
  measured = Measured({}, published=measures, stimulus=np.arange(NUM_STIMULI))
  inside = measured.select(np.arange(7) >= 4, np.array([4, 5, 6])).scores(())
  assert set(inside) == {'clip', 'effnet', *published.RETRIEVALS}
  assert inside['retrieval_brain'].table.shape == (3, 2, 3) and inside['retrieval_brain'].num_ways == 3
  assert list(measured.select(np.arange(7) == 4, np.array([4])).scores(())) == ['effnet']
