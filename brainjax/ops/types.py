"""The type of an array in annotations.

`Float[Array, 'B V']` is an array of floats of shape B V. The letters: B batch, V voxels, L and M tokens, D and E widths,
S samples, H W C height, width and channels; p the values of a patch. Within one call a letter has one value. The tests
check every annotation of `ops` and `models`; at other times it costs nothing.
"""

import jax
import numpy as np

Array = jax.Array | np.ndarray
