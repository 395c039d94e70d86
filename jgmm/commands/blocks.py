"""Products of block mixtures on the command line: what EM is fitted to, and the law of labels that follows it."""

from typing import Any

import jax
import numpy as np

from jgmm.commands.codes import LABEL_STREAM, Codes
from jgmm.commands.options import Options
from jgmm.commands.progress import Stage
from jgmm.errors import check
from jgmm.mixture import GMM
from jgmm.product.fitting import MAX_ITER, with_labels, without_classes
from jgmm.product.labels import grid_parents
from jgmm.product.mixture import ProductMixture

# The most blocks that the Gaussians are fitted to.
ROWS = 2**18


def grid_of(options: Options, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """How many blocks of an image lie below and beside each other; None for one mixture of the whole."""
    return None if options.blocks is None else (shape[0] // options.blocks, shape[1] // options.blocks)


def parents_of(options: Options, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The parents of every level of the tree of classes above the blocks. Raises InputError for too many levels."""
    grid = grid_of(options, shape)
    return grid_parents(grid, len(options.classes)) if grid and options.classes else ()


def rows_of(options: Options, codes: Codes) -> Any:
    """What EM is fitted to: the codes, or blocks of them, as many as are enough, from anywhere in the images."""
    if codes.n_blocks == 1:
        return codes.values
    n, d = codes.values.shape
    blocks = codes.values.reshape(n * codes.n_blocks, -1)
    if len(blocks) <= ROWS:
        return blocks
    return blocks[np.sort(np.random.default_rng(options.seed).choice(len(blocks), ROWS, replace=False))]


def check_blocks(options: Options, codes: Codes, shape: tuple[int, ...]) -> None:
    """Raise InputError where directions without variance leave no blocks of codes."""
    d, p = codes.values.shape[1], int(np.prod(shape))
    check(d == p, f"only {d} of {p} directions have variance, and no blocks to make up an image: leave --blocks out.")


def product_of(options: Options, codes: Codes, blocks: GMM, shape: tuple[int, ...]) -> ProductMixture:
    """The product of such Gaussians in all blocks, with the law of labels that the images have."""
    parents = parents_of(options, shape)
    stage = Stage("labels", lambda value: value + codes.offset)
    key = jax.random.fold_in(jax.random.key(options.seed), LABEL_STREAM)
    start = without_classes([blocks], (codes.n_blocks,))
    mixture, history = with_labels(key, start, codes.values, options.classes, parents, callback=stage)
    stage.end(MAX_ITER, len(history) < MAX_ITER)
    return mixture


def one_mixture(mixture: GMM | ProductMixture) -> GMM:
    """What EM is run on: the mixture itself, or that of the blocks of a product."""
    return mixture if isinstance(mixture, GMM) else mixture.parts[0]
