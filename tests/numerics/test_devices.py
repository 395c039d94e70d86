"""What the devices are told."""

import jax
import numpy as np

from jgmm.numerics.devices import convolution_options


def test_convolutions_are_the_same_by_either_library(rng):
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 5, 3), (3, 3, 3, 4)))

    def convolved(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    ours = jax.jit(convolved, compiler_options=convolution_options())(x, w)
    np.testing.assert_allclose(ours, jax.jit(convolved)(x, w), atol=1e-5)
