"""CLIP's image tower against Hugging Face transformers, from a saved folder through the converter to features."""

import json

import numpy as np
import pytest

from brainjax import convert
from brainjax.errors import UserError
from brainjax.evaluation.networks import classifiers
from brainjax.evaluation.scores import tables
from brainjax.torch_convert.convert_file import convert_file
from brainjax.trees import unflatten

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from brainjax.models.clip import ClipVision  # noqa: E402

VISION = {
  'hidden_size': 24, 'intermediate_size': 40, 'num_hidden_layers': 3, 'num_attention_heads': 3, 'image_size': 35,
  'patch_size': 7,
}  # fmt: skip
TEXT = {'hidden_size': 16, 'intermediate_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'vocab_size': 9}
TEXT |= {'eos_token_id': 2, 'bos_token_id': 1, 'pad_token_id': 0}


def saved(folder, activation='quick_gelu', vision_only=False):
  """A folder as on the hub, and its model."""
  torch.manual_seed(3)
  vision = VISION | {'hidden_act': activation, 'projection_dim': 9}
  if vision_only:
    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision))
  else:
    model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=TEXT, projection_dim=9))
  for parameter in model.parameters():
    torch.nn.init.normal_(parameter, 0.1, 0.3)
  model.eval().save_pretrained(folder)
  return model


@pytest.mark.parametrize('activation', ['quick_gelu', 'gelu'])
def test_equals_transformers(tmp_path, activation):
  model = saved(tmp_path, activation)
  converted = convert_file(tmp_path)
  assert converted.kind == 'clip' and converted.kwargs == {
    'image_size': 35, 'patch_size': 7, 'width': 24, 'depth': 3, 'num_heads': 3, 'mlp_dim': 40, 'projection_dim': 9,
    'activation': activation,
  }  # fmt: skip
  images = np.random.default_rng(0).normal(size=(2, 35, 35, 3)).astype(np.float32)
  with torch.no_grad():
    expected = model.get_image_features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
  found = ClipVision(**converted.kwargs).apply({'params': unflatten(converted.params)}, images)
  np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_without_projection(tmp_path):
  model = saved(tmp_path, vision_only=True)
  converted = convert_file(tmp_path)
  images = np.random.default_rng(1).normal(size=(2, 35, 35, 3)).astype(np.float32)
  with torch.no_grad():
    expected = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).pooler_output.numpy()
  found = ClipVision(**converted.kwargs).apply({'params': unflatten(converted.params)}, images)
  np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_features_of_pictures_as_a_user_gets_them(tmp_path, monkeypatch):
  """Folder of the hub -> command -> features of uint8 pictures, against transformers with its own preprocessing."""
  monkeypatch.setattr(tables, 'BLOCK', 2)
  model = saved(tmp_path / 'hub')
  assert not convert.main([str(tmp_path / 'hub'), f'--out={tmp_path / "clip"}'])
  clip = classifiers.load(tmp_path / 'clip', needs_classes=False)
  pictures = np.random.default_rng(2).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
  sizes = {'size': {'shortest_edge': 35}, 'crop_size': 35}
  processor = transformers.models.clip.image_processing_clip.CLIPImageProcessor(**sizes)
  pixels = processor(images=list(pictures), return_tensors='pt')['pixel_values']
  with torch.no_grad():
    expected = model.get_image_features(pixels).numpy()
  np.testing.assert_allclose(clip.features(pictures), expected, atol=1e-4 * np.abs(expected).max())
  assert clip.probabilities is None and clip.key == 'clip24'
  with pytest.raises(UserError, match='is CLIP, which has no classes; name it in evaluate.features'):
    classifiers.load(tmp_path / 'clip')


def test_an_activation_that_is_not_known(tmp_path):
  saved(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  config['vision_config']['hidden_act'] = 'relu'
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError, match='activation relu, expected quick_gelu or gelu'):
    convert_file(tmp_path)


def test_published_sizes():
  """Parameter counts of the published image towers: ViT-L/14 and ViT-B/32, each with its projection."""
  import jax

  def count(**sizes):
    model = ClipVision(**sizes)
    image = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), np.float32)
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), image)))

  assert count() == 303_966_208
  small = {'patch_size': 32, 'width': 768, 'depth': 12, 'num_heads': 12, 'mlp_dim': 3072, 'projection_dim': 512}
  assert count(**small) == 87_849_216
