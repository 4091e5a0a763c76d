"""fMRI -> features: the fMRI encoder after contrast, attend or diffuse (paper, section 3), for any use of one's own."""

import os
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from brainjax import sharding
from brainjax.checkpoints import load_weights
from brainjax.datasets.responses import Betas, MaskOf, Responses, Sessions
from brainjax.errors import UserError
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.fmri_mae import FmriMAE, fmri_kwargs, fmri_weights
from brainjax.trees import lists_to_tuples, subtree, unflatten


class Features(NamedTuple):
  """What the encoder makes of N trials.

  Attributes:
    tokens: N L D float32, one vector for each patch of voxels (one in all if the model averages them itself).
    pooled: N D float32, their mean.
  """

  tokens: np.ndarray
  pooled: np.ndarray


class FmriEncoder:
  """The fMRI encoder of trained or converted weights.

  Example:
    encoder = FmriEncoder.from_pretrained('runs/demo/attend/weights')
    tokens, pooled = encoder(betas)  # N L D, N D

  Attributes:
    info: what was saved with the weights.
    responses: turns responses into model input.
  """

  def __init__(self, weights: str | os.PathLike, dtype: Any = jnp.float32, batch_size: int = 64):
    """Loads the weights of contrast, attend or diffuse, or a converted fMRI autoencoder or LDM.

    Args:
      weights: folder or file, or a repository `hf://org/name[@revision]`.
      dtype: compute precision.
      batch_size: rows encoded together, shared by the devices of this host.

    Raises:
      UserError: there are no such weights, or they have no fMRI encoder.
    """
    flat, info = load_weights(weights)
    if kwargs := info.get('settings', {}).get('conditioner'):
      flat = subtree(flat, 'conditioner')
      model, first = FmriConditioner(**lists_to_tuples(kwargs), dtype=dtype), 0
    elif 'num_voxels' in (kwargs := fmri_kwargs(info)):
      flat = fmri_weights(flat)
      model, first = FmriMAE(**lists_to_tuples(kwargs), dtype=dtype), 1  # the class token comes first
    else:
      raise UserError(
        f'{weights} holds {info.get("kind", "no models")}, which has no fMRI encoder; expected weights of contrast, attend '
        'or diffuse.'
      )

    def encode(params: Any, fmri: jax.Array) -> jax.Array:
      return model.apply({'params': params}, fmri, method='encode')[:, first:].astype(jnp.float32)

    self._encode = sharding.RowMap(encode, unflatten(flat), batch_size)
    self.info = info
    self.responses = Responses(info, kwargs['num_voxels'])

  @classmethod
  def from_pretrained(cls, source: str | os.PathLike, **options: Any) -> Self:
    """The encoder of a packed folder or file, of a run's weights, or of a repository `hf://org/name[@revision]`.

    `options` and errors are those of the class.
    """
    return cls(source, **options)

  def __call__(
    self,
    fmri: np.ndarray,
    subject: str = '',
    normalised: bool = False,
    repetitions: int = 1,
    session: Sessions = None,
  ) -> Features:
    """Encodes responses N V; arguments and errors are those of `Responses.model_input`."""
    return self._features(self.responses.model_input(fmri, subject, normalised, repetitions, session))

  def from_betas(
    self,
    betas: Betas,
    mask: MaskOf = None,
    subject: str = '',
    scale: float | None = None,
    repetitions: int = 1,
    session: Sessions = None,
  ) -> Features:
    """Encodes responses in arrays or files; arguments and errors are those of `Responses.from_betas`."""
    return self._features(self.responses.from_betas(betas, mask, subject, scale, repetitions, session))

  def _features(self, rows: np.ndarray) -> Features:
    tokens = self._encode(rows)
    return Features(tokens, tokens.mean(axis=1))
