"""Where each area of the cortex lies in the model input."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from brainjax.datasets import arrays, transforms
from brainjax.datasets.input_transform import InputTransform
from brainjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Areas:
  """The areas of one subject.

  Attributes:
    masks: name -> V bool, which voxels of the model's ROI belong to it. Areas may overlap.
    source: W, the voxel (0 .. V-1) that each entry of the model input holds. Voxels are repeated to fill the input.
    num_voxels: V.
  """

  masks: Mapping[str, np.ndarray]
  source: np.ndarray
  num_voxels: int

  @classmethod
  def of(cls, transform: InputTransform, masks: Mapping[str, np.ndarray], names: Sequence[str] = ()) -> Self:
    """The areas that lie in the ROI of a model.

    Args:
      transform: of the subject.
      masks: name -> bool over all stored voxels, as prepared data hold them.
      names: of the areas, which may be unions such as 'V1+V2'; none: all masks that are neither the whole ROI nor the same
        as one before; there may be none. Areas of which no voxel enters the model are left out.

    Raises:
      UserError: an unknown name, or none of the named areas is a part of the model input.
    """
    voxels = transforms.pad_to_patch_size(
      np.arange(transform.num_voxels), transform.patch_size, transform.full_extra_patch
    )
    source = transforms.fit_width(voxels, transform.width)
    chosen = {}
    for name in names or masks:
      inside = arrays.select_mask(masks, name, f'{transform.data_set}/{transform.subject}')[transform.mask]
      if not inside[source].any():  # outside the ROI, or cut off
        continue
      if names or not inside.all() and not any(np.array_equal(inside, other) for other in chosen.values()):
        chosen[name] = inside
    if names and not chosen:
      raise UserError(
        f'{transform.data_set}/{transform.subject}: no voxel of {", ".join(names)} enters the model, which sees '
        f'{transform.roi}; choose areas inside it.'
      )
    return cls(chosen, source, transform.num_voxels)

  def entries(self, name: str) -> np.ndarray:
    """Which entries of the model input belong to an area: W bool."""
    return self.masks[name][self.source]

  def to_voxels(self, values: np.ndarray) -> np.ndarray:
    """Sums what belongs to one voxel, such as its derivative over all places where it enters: ... W -> ... V."""
    result = np.zeros((*values.shape[:-1], self.num_voxels), values.dtype)
    np.add.at(result, (..., self.source), values)
    return result

  def mean_by_area(self, values: np.ndarray) -> dict[str, np.ndarray]:
    """The mean over the voxels of each area: ... V -> name -> ...."""
    return {name: values[..., mask].mean(axis=-1) for name, mask in self.masks.items()}
