"""What every data source returns."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from jgmm.data.streams import Chosen, Joined, Mapped, Stream
from jgmm.errors import check

# Two neighboring 8-bit values lie this far apart in [-1, 1].
STEP = 1 / 127.5
# Examples on disk that tell whether others are the same.
HASHED = 64
# The variance of noise uniform over one such cell.
CELL_VARIANCE = STEP**2 / 12


class Units(NamedTuple):
    """How pixels become features: scale · pixels + shift. `floor` is the least variance that they can tell, or None."""

    scale: float
    shift: float
    floor: float | None


@dataclass(frozen=True)
class Images:
    """N examples of one shape.

    Attributes:
        name: of the data set.
        pixels: [N, H, W, C] uint8, or [N, ...] floating point, as they are modeled; an array, or a stream from disk.
        labels: [N] integers, or None.
        location: where the examples were found, for the log.
        convention: what their numbers were before they were read (`jgmm.data.pixels`).
        remark: what a reader should know of how they were read, or "".
        has_mirror_images: whether a mirror image is one of the same kind; that of a digit is none.
        weight: [N] how often each counts; None for once.
    """

    name: str
    pixels: Any
    labels: np.ndarray | None
    location: str
    convention: str = "0..255"
    remark: str = ""
    has_mirror_images: bool = True
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.pixels.shape[1:]

    @property
    def is_8_bit(self) -> bool:
        """Whether the pixels are 8-bit integers, so that bits per dimension are defined."""
        return self.pixels.dtype == np.uint8

    @property
    def units(self) -> Units:
        """8-bit values become [-1, 1] and carry no more than their cell; others are features already."""
        return Units(STEP, -1.0, CELL_VARIANCE) if self.is_8_bit else Units(1.0, 0.0, None)

    @cached_property
    def sha256(self) -> str:
        """Of the bytes of `pixels` in C order: equal for every route to the same data. Of examples on disk, which are
        many, some are read."""
        if not isinstance(self.pixels, Stream):
            return hashlib.sha256(np.ascontiguousarray(self.pixels).data).hexdigest()
        some = self.pixels[np.linspace(0, len(self) - 1, min(len(self), HASHED)).astype(int)]
        return hashlib.sha256(f"{self.pixels.shape} {self.pixels.dtype}".encode() + some.tobytes()).hexdigest()

    @property
    def on_disk(self) -> bool:
        """Whether the pixels are a stream."""
        return isinstance(self.pixels, Stream)

    def pieces(self) -> Iterable[np.ndarray]:
        """All pixels, a part of them at a time where they are on disk."""
        return self.pixels.pieces() if isinstance(self.pixels, Stream) else [self.pixels]

    def in_memory(self) -> "Images":
        """The same examples, read."""
        return replace(self, pixels=self.pixels[:]) if isinstance(self.pixels, Stream) else self

    def take(self, rows: np.ndarray) -> "Images":
        """Some of the examples."""
        pixels = Chosen(self.pixels, rows) if isinstance(self.pixels, Stream) else self.pixels[rows]
        labels, weight = (None if a is None else a[rows] for a in (self.labels, self.weight))
        return replace(self, pixels=pixels, labels=labels, weight=weight)

    def with_mirror_images(self) -> "Images":
        """The examples followed by the mirror image of each: exactly twice as many.

        Raises:
            InputError: If the examples are not images [H, W, C].
        """
        check(len(self.shape) == 3, f"only images [N, H, W, C] have mirror images, got {self.pixels.shape}.")
        if isinstance(self.pixels, Stream):
            pixels: Any = Joined([self.pixels, Mapped(self.pixels, lambda piece: piece[:, :, ::-1])])
        else:
            pixels = np.concatenate([self.pixels, self.pixels[:, :, ::-1]])
        labels, weight = (None if a is None else np.tile(a, 2) for a in (self.labels, self.weight))
        return replace(self, pixels=pixels, labels=labels, weight=weight)


def split(images: Images, share: float, seed: int) -> tuple[Images, Images | None]:
    """The images to fit, and a random share of them that is held out, each in their order; None for a share of 0."""
    n = round(share * len(images))
    check(share == 0 or n > 0, f"--holdout {share} of {len(images)} examples is none.")
    if n == 0:
        return images, None
    order = np.random.default_rng(seed).permutation(len(images))
    return images.take(np.sort(order[n:])), images.take(np.sort(order[:n]))


def mirror_of(shape: tuple[int, ...]) -> np.ndarray:
    """The feature [D] that every feature of an image [H, W, C] changes places with in its mirror image."""
    return np.arange(np.prod(shape)).reshape(shape)[:, ::-1].ravel()


def rescale(pixels: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
    """8-bit values v become v / 127.5 − 1 in [-1, 1], others stay as they are; the shape stays."""
    values = pixels.astype(dtype)
    if pixels.dtype == np.uint8:
        values /= 127.5
        values -= 1
    return values


def to_features(pixels: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
    """[N, ...] pixels to [N, D] features, rescaled."""
    return rescale(pixels, dtype).reshape(pixels.shape[0], -1)


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether examples of this shape can be shown as gray or color images."""
    return len(shape) == 3 and shape[2] in (1, 3)
