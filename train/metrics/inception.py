"""The network that FID is defined by, and its file for jgmm.

    python -m train.metrics.inception pt_inception-2015-12-05-6726825d.pth inception.npz

Inception v3 of 2015 as TensorFlow had it, in the conversion that pytorch-fid distributes (91 MB, not part of jgmm):
the 2,048 means of its last features over their places, of images enlarged to 299 pixels. Distances in these features,
and in no others, are called FID and KID.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.checkpoint.files import digest_of_file, read_arrays, write_arrays
from jgmm.commands import cli
from jgmm.convert.tensors import read_tensors
from jgmm.errors import InputError, check
from jgmm.numerics.devices import jit_convolutions
from train.batches import in_parts
from train.metrics.features import Features

PROG = "python -m train.metrics.inception"
# The digest of the distributed file begins so, as its name says; the converted file remembers it under this name.
SHA256, SOURCE = "6726825d", "source_sha256"
SIDE, ROWS, EPSILON = 299, 32, 1e-3

Weights = dict[str, Array]


def main() -> None:
    """Convert the file of PyTorch. Raises InputError for any other file."""
    check(len(sys.argv) == 3, f"expected the file of pytorch-fid and a name for its copy: {PROG} FILE.pth FILE.npz")
    path, out = map(Path, sys.argv[1:])
    check(out.suffix == ".npz", f"expected a name ending in .npz, got {out}.")
    check(not out.exists(), f"{out} exists: choose another name.")
    digest = _known(path, digest_of_file(path))
    tensors = {name: array for name, array in read_tensors(path).items() if array.dtype == np.float32}
    write_arrays(out, tensors | {SOURCE: np.frombuffer(bytes.fromhex(digest), np.uint8)})
    print(out)


def _known(path: Path, digest: str) -> str:
    if not digest.startswith(SHA256):
        raise InputError(
            f"{path} is not the network that FID is defined by: its sha256 begins with {digest[:8]}, that of "
            f"pt_inception-2015-12-05-{SHA256}.pth with {SHA256}."
        )
    return digest


def features_of(path: Path) -> Features:
    """The features of 8-bit images by the weights of a file. Raises InputError for a file that this module has not
    made of the network that FID is defined by."""
    check(path.suffix == ".npz", f"--inception-weights expects a .npz file of {PROG}, got {path}.")
    found = read_arrays(path, None)
    check(isinstance(found, dict) and SOURCE in found, f"{path} was not made by {PROG}, which says what it is of.")
    _known(path, bytes(found.pop(SOURCE)).hex())
    weights = {name: jnp.asarray(array) for name, array in found.items()}
    run = jit_convolutions(_features)
    return lambda pixels: in_parts(lambda part, _: run(weights, part), pixels, ROWS)


def _features(w: Weights, pixels: Array) -> Float[Array, "n 2048"]:
    x = jnp.broadcast_to(pixels.astype(jnp.float32) / 127.5 - 1, (*pixels.shape[:3], 3))
    x = jax.image.resize(x, (x.shape[0], SIDE, SIDE, 3), "linear", antialias=False)
    x = _conv(w, "Conv2d_1a_3x3", x, 2)
    x = _conv(w, "Conv2d_2a_3x3", x)
    x = _conv(w, "Conv2d_2b_3x3", x, padding=1)
    x = _conv(w, "Conv2d_4a_3x3", _conv(w, "Conv2d_3b_1x1", _largest(x, 2)))
    x = _largest(x, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = _block_a(w, name, x)
    x = _block_b(w, "Mixed_6a", x)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = _block_c(w, name, x)
    x = _block_d(w, "Mixed_7a", x)
    x = _block_e(w, "Mixed_7b", x, _mean(x))
    x = _block_e(w, "Mixed_7c", x, _largest(x, 1))
    return x.mean(axis=(1, 2))


def _chain(w: Weights, name: str, x: Array, *layers: tuple) -> Array:
    """Convolutions one after the other: (name, padding) each, and (name, padding, stride)."""
    for layer, padding, *stride in layers:
        x = _conv(w, f"{name}.{layer}", x, stride[0] if stride else 1, padding)
    return x


def _joined(*parts: Array) -> Array:
    return jnp.concatenate(parts, axis=3)


def _block_a(w: Weights, name: str, x: Array) -> Array:
    of = partial(_chain, w, name)
    five = of(x, ("branch5x5_1", 0), ("branch5x5_2", 2))
    three = of(x, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1), ("branch3x3dbl_3", 1))
    return _joined(of(x, ("branch1x1", 0)), five, three, of(_mean(x), ("branch_pool", 0)))


def _block_b(w: Weights, name: str, x: Array) -> Array:
    of = partial(_chain, w, name)
    double = of(x, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1), ("branch3x3dbl_3", 0, 2))
    return _joined(of(x, ("branch3x3", 0, 2)), double, _largest(x, 2))


def _block_c(w: Weights, name: str, x: Array) -> Array:
    of, along, down = partial(_chain, w, name), (0, 3), (3, 0)
    seven = of(x, ("branch7x7_1", 0), ("branch7x7_2", along), ("branch7x7_3", down))
    ends = [(f"branch7x7dbl_{i}", down if i % 2 == 0 else along) for i in range(2, 6)]
    double = of(x, ("branch7x7dbl_1", 0), *ends)
    return _joined(of(x, ("branch1x1", 0)), seven, double, of(_mean(x), ("branch_pool", 0)))


def _block_d(w: Weights, name: str, x: Array) -> Array:
    of = partial(_chain, w, name)
    three = of(x, ("branch3x3_1", 0), ("branch3x3_2", 0, 2))
    seven = of(x, ("branch7x7x3_1", 0), ("branch7x7x3_2", (0, 3)), ("branch7x7x3_3", (3, 0)), ("branch7x7x3_4", 0, 2))
    return _joined(three, seven, _largest(x, 2))


def _block_e(w: Weights, name: str, x: Array, pooled: Array) -> Array:
    of = partial(_chain, w, name)
    three = of(x, ("branch3x3_1", 0))
    double = of(x, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1))
    both = [
        of(part, (f"{branch}{side}", ends))
        for part, branch in ((three, "branch3x3_2"), (double, "branch3x3dbl_3"))
        for side, ends in (("a", (0, 1)), ("b", (1, 0)))
    ]
    return _joined(of(x, ("branch1x1", 0)), *both, of(pooled, ("branch_pool", 0)))


def _conv(w: Weights, name: str, x: Array, stride: int = 1, padding: int | tuple[int, int] = 0) -> Array:
    """A convolution, its normalization, and what is positive of it; the padding is along H and W."""
    down, across = (padding, padding) if isinstance(padding, int) else padding
    ends, axes = ((down, down), (across, across)), ("NHWC", "OIHW", "NHWC")
    weight = w[f"{name}.conv.weight"]
    h = jax.lax.conv_general_dilated(x, weight, (stride, stride), ends, dimension_numbers=axes, precision="highest")
    scale = w[f"{name}.bn.weight"] * jax.lax.rsqrt(w[f"{name}.bn.running_var"] + EPSILON)
    shift = w[f"{name}.bn.bias"] - w[f"{name}.bn.running_mean"] * scale
    return jax.nn.relu(h * scale[None, None, None] + shift[None, None, None])


def _largest(x: Array, stride: int) -> Array:
    """Of squares of 3 by 3; at the borders of stride 1 of what there is of them."""
    padding = "VALID" if stride > 1 else "SAME"
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def _mean(x: Array) -> Array:
    """Of squares of 3 by 3, at the borders of what there is of them."""
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    there = np.full(x.shape[1], 3.0, np.float32)
    there[[0, -1]] = 2
    return total / np.outer(there, there)[None, :, :, None]


if __name__ == "__main__":
    cli.run(main)
