"""The interface between stages and the training loop: a problem and its data."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

Batch = Mapping[str, jax.Array]
Loss = Callable[[Any, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class Batches(Protocol):
  """An endless stream of batches that knows its position."""

  def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]: ...
  def __next__(self) -> Mapping[str, np.ndarray]: ...
  def get_state(self) -> dict[str, Any]:
    """The position, as JSON stores it."""
    ...

  def set_state(self, state: dict[str, Any]) -> None:
    """Moves to a position that `get_state` returned."""
    ...


class Problem(NamedTuple):
  """What is optimised.

  Attributes:
    init: key -> nested tree of all parameters, trained and frozen.
    pretrained: path -> array that replaces the initial value (converted weights, or those of the stage before).
    trainable: regular expression searched in each path. Parameters that do not match are frozen: they have no gradient
      and no optimizer state.
    loss: (nested parameters, batch, key) -> (scalar, metrics), for training and validation. The key is that of the step.
    optimizer: on a flat mapping of trained paths.
    learning_rate: number of updates done -> rate, for the log.
    kernel_dtype: in which the loss computes. Frozen kernels are cast to it once for all steps.
  """

  init: Callable[[jax.Array], Any]
  pretrained: Mapping[str, np.ndarray]
  trainable: str
  loss: Loss
  optimizer: optax.GradientTransformation
  learning_rate: Callable[[Any], Any]
  kernel_dtype: Any = jnp.float32


class Training(NamedTuple):
  """A problem with its data.

  Attributes:
    problem: see `Problem`.
    batches: this host's share of the training batches.
    validation: gives this host's share of the validation batches; None where nothing is held out.
    num_steps: training steps in all.
    info: saved with the finished weights: what a reader needs to use them. Its `inputs` (SHA-256 of the raw data and of
      the weights that the stage starts from) are saved with checkpoints too: a run only resumes with the same inputs.
  """

  problem: Problem
  batches: Batches
  validation: Callable[[], Iterable[Mapping[str, np.ndarray]]] | None
  num_steps: int
  info: Mapping[str, Any]
