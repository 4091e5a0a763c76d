"""The digest of weights: the same for the same values however stored, another for any change."""

import hashlib

import numpy as np

from brainjax.checkpoints import load_weights, save_weights
from brainjax.scoring.provenance import weights_digest


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
