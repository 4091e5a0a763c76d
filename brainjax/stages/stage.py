"""What a stage of the method is, for the training loop."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax

Batch = Mapping[str, jax.Array]
Loss = Callable[[Any, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class Batches(Protocol):
  """An endless stream of batches that knows its position."""

  def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]: ...
  def __next__(self) -> Mapping[str, np.ndarray]: ...
  def get_state(self) -> dict[str, Any]:
    """The position, as JSON takes it."""
    ...

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a position."""
    ...


class Stage(NamedTuple):
  """A stage: its parameters, its loss, its data, and for how long it trains.

  Attributes:
    name: of the stage, and of its folder in the workdir.
    init: key -> nested tree of all parameters, trained and frozen.
    pretrained: path -> array that replaces the initial value (converted weights, the stage before).
    trainable: regular expression searched in a path; what does not match is frozen: no gradient, no optimizer state.
    loss: (nested parameters, batch, key) -> (scalar, metrics), for training and validation. The key is the step's.
    optimizer: on a flat mapping of trained paths.
    learning_rate: step -> rate, for the log.
    batches: this host's share of the training batches.
    validation: gives this host's share of the validation batches, or None.
    num_steps: to train.
    eval_every, checkpoint_every, log_every: in steps.
    skip_nonfinite: steps with a loss or gradient that is not finite before the run stops; they are skipped.
    select: 'last', or 'best' by validation loss.
    info: saved with the finished weights: what is needed to use them. `inputs` in it, SHA-256 of raw data and of weights that
      the stage starts from, is saved with checkpoints too, which go on from the same inputs only.
  """

  name: str
  init: Callable[[jax.Array], Any]
  pretrained: Mapping[str, np.ndarray]
  trainable: str
  loss: Loss
  optimizer: optax.GradientTransformation
  learning_rate: Callable[[int], float]
  batches: Batches
  validation: Callable[[], Iterable[Mapping[str, np.ndarray]]] | None
  num_steps: int
  eval_every: int
  checkpoint_every: int
  log_every: int
  skip_nonfinite: int
  select: str
  info: Mapping[str, Any]
