"""Bits per dimension of 8-bit images under a source, by uniform dequantisation.

    −[E_u log p(x + u) + D log δ] / (D log 2),   u uniform on the cell of side δ = 1/127.5 around each 8-bit value

bounds the code length of the discrete image from above (Theis, van den Oord and Bethge, A note on the evaluation
of generative models, 2016, section 3.1). The noise is centred, so that the density is integrated over the cell
around the value that the mixture was fitted to.
"""

import numpy as np
from jaxtyping import PRNGKeyArray, UInt8

from jgmm.checks import check
from jgmm.data.images import STEP
from jgmm.scores import ROWS, log_prob
from jgmm.source import Source


def bits_per_dim(
    key: PRNGKeyArray, params: Source, pixels: UInt8[np.ndarray, "n ..."], *, chunk_size: int = ROWS
) -> float:
    """Bits per dimension of uint8 images, one draw of the noise an image.

    Raises InputError for pixels of another type: without cells there are no bits to count.
    """
    check(pixels.dtype == np.uint8, f"bits per dimension are defined for uint8 images, got {pixels.dtype}.")
    d = int(np.prod(params.shape))
    nats = log_prob(params, pixels, key=key, chunk_size=chunk_size).mean(dtype=np.float64)
    return float(-(nats / d + np.log(STEP)) / np.log(2))
