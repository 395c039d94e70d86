"""How zuko lays out the parameters of a mixture."""

import itertools

import numpy as np

TYPES = ("full", "diagonal", "spherical")


def parameters(rng: np.random.Generator, k: int, d: int, batch: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Of every type and tied or not: zuko's own tensors (logits, means, log-scales, entries below the diagonal)."""
    return {
        f"{kind}-{tied}-{len(batch)}": np.concatenate(
            [rng.normal(size=(*batch, int(np.prod(shape)))) for shape in shapes(k, d, kind, tied)], axis=-1
        ).astype(np.float32)
        for kind, tied in itertools.product(TYPES, (False, True))
    }


def shapes(k: int, d: int, kind: str, tied: bool) -> list[tuple[int, ...]]:
    """Of those tensors."""
    rows = 1 if tied else k
    scales = {"full": [(rows, d), (rows, d * (d - 1) // 2)], "diagonal": [(rows, d)], "spherical": [(rows, 1)]}
    return [(k,), (k, d), *scales[kind]]
