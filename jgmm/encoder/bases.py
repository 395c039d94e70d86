"""Orthonormal bases of images: the directions that the axes of whitened codes are turned to.

A Gaussian with a diagonal covariance depends on the axes. On principal axes, which are waves over the whole image, it
says how strong each wave is; on axes that live in one place it says where an image is busy, and images differ in that.
Whitened codes may be turned to any orthonormal axes at no cost: log |det| stays as it is.

A basis is a function atoms(block) -> [block², block²], the orthonormal patterns of one square block in rows, or None
for principal axes; `jgmm.registry.BASES` names them. An image is tiled with blocks, and its channels have a basis of
their own: opponent colors for three, cosines for any other number.
"""

import math
from collections.abc import Callable

import numpy as np
import scipy.fft
import scipy.linalg
from jaxtyping import Float

from jgmm.errors import InputError, check, check_count

# Where none is asked for, the side of the blocks is the largest common divisor of the sides up to BLOCK, of which there
# are at least ACROSS along each side.
BLOCK, ACROSS = 8, 4
OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]])

Atoms = Callable[[int], Float[np.ndarray, "a a"] | None]


def principal(block: int) -> None:
    """The principal axes: codes stay as they are."""
    return


def pixels(block: int) -> Float[np.ndarray, "a a"]:
    """One pixel each: zero-phase whitening (ZCA)."""
    return np.eye(block * block)


def cosine(block: int) -> Float[np.ndarray, "a a"]:
    """The cosines of a discrete cosine transform (DCT-II), as in JPEG."""
    return np.kron(_cosines(block), _cosines(block))


def haar(block: int) -> Float[np.ndarray, "a a"]:
    """Haar wavelets of all levels that a block holds (Mallat, A theory for multiresolution signal decomposition,
    1989)."""
    return _pyramid(block, block)


def learned(block: int) -> Float[np.ndarray, "a a"]:
    """The cosines, from which axes of each block are learned (`jgmm.encoder.common_axes`)."""
    return cosine(block)


def _cosines(n: int) -> np.ndarray:
    return scipy.fft.dct(np.eye(n), norm="ortho", axis=0)


def _pyramid(h: int, w: int) -> np.ndarray:
    """Averages and differences of neighbors along both axes, and the same of the averages of both."""
    if h == w == 1:
        return np.ones((1, 1))
    level = np.kron(_pairs(h), _pairs(w))
    rows, columns = -(-h // 2), -(-w // 2)
    averages = (np.arange(h)[:, None] < rows) & (np.arange(w)[None] < columns)
    chosen = averages.ravel()
    level[chosen] = _pyramid(rows, columns) @ level[chosen]
    return level


def _pairs(n: int) -> np.ndarray:
    """The averages of pairs of neighbors, then their differences; the last of an odd number is its own average."""
    averages, differences = (np.kron(np.eye(n // 2), [1, sign]) / np.sqrt(2) for sign in (1, -1))
    if n % 2:
        averages, differences = scipy.linalg.block_diag(averages, 1), np.pad(differences, ((0, 0), (0, 1)))
    return np.concatenate([averages, differences])


def block_of(shape: tuple[int, ...], block: int | None = None) -> int:
    """The side of the blocks of images of a shape: the one asked for, or the largest up to BLOCK and a quarter of them.

    Raises:
        InputError: For examples that are no images [H, W, C], and a block that does not divide both sides.
    """
    check(len(shape) == 3, f"a local basis is one of images [N, H, W, C], the examples have shape {shape}.")
    sides = math.gcd(*shape[:2])
    fitting = [b for b in range(1, sides + 1) if sides % b == 0]
    if block is None:
        return max(b for b in fitting if b <= max(1, min(BLOCK, min(shape[:2]) // ACROSS)))
    check_count("block", block)
    check(
        block in fitting,
        f"blocks of {block}x{block} do not tile images of {shape[0]}x{shape[1]}: choose one of "
        f"{', '.join(map(str, fitting))}.",
    )
    return block


def patterns(atoms: Atoms, shape: tuple[int, ...], block: int) -> Float[np.ndarray, "p p"]:
    """The patterns of a local basis as images [H, W, C] in rows, those of a block one after the other.

    Raises:
        InputError: For principal axes, which have none, and a basis of another shape.
    """
    of_block = atoms(block)
    h, w, c = shape
    area = block * block
    found = None if of_block is None else of_block.shape
    if of_block is None or found != (area, area):
        raise InputError(f"a basis of blocks of {block}x{block} has shape {(area, area)}, got {found}.")
    down, across = np.eye(h // block), np.eye(w // block)
    tiled = np.einsum("ik,jl,ayx->ijakylx", down, across, of_block.reshape(area, block, block))
    return np.kron(tiled.reshape(h * w, h * w), _channels(c))


def _channels(c: int) -> np.ndarray:
    return OPPONENT / np.linalg.norm(OPPONENT, axis=1, keepdims=True) if c == 3 else _cosines(c)


def turn(patterns: Float[np.ndarray, "p p"], directions: Float[np.ndarray, "d p"]) -> Float[np.ndarray, "d d"]:
    """The rotation T of codes along orthonormal `directions` that takes them to axes like the patterns: T directions
    are the patterns where both span the same, and else the orthonormal set nearest to the d of them that are the most
    independent in what the directions span (QR with pivoting, then the polar factor)."""
    seen = patterns @ directions.T
    p, d = seen.shape
    if d == p:
        return seen
    pivots = scipy.linalg.qr(seen.T, mode="r", pivoting=True)[1]
    u, _, v = np.linalg.svd(seen[np.sort(pivots[:d])])
    return u @ v
