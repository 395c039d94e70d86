"""From images to what a mixture is fitted to: the encoder that the options ask for, and the codes."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.checkpoint.files import faults
from jgmm.checkpoint.interrupted import InterruptedFit
from jgmm.commands.inputs import basis_of, is_local
from jgmm.commands.options import Common, Options
from jgmm.covariance.base import Covariance, Family, blank_of
from jgmm.covariance.prior import Floor, Prior
from jgmm.data.images import CELL_VARIANCE, Images, mirror_of
from jgmm.data.streams import File
from jgmm.em.initializers import log_energy
from jgmm.em.scales import check_scalable
from jgmm.encoder.base import Encoder, encode_with_residual
from jgmm.encoder.bases import patterns, turn
from jgmm.encoder.common_axes import learned_turns
from jgmm.encoder.identity import Identity
from jgmm.encoder.pca import PCA, Spectrum, fit_pca
from jgmm.encoder.rotated import RotatedPCA
from jgmm.errors import check
from jgmm.metrics.likelihood import feature_chunks
from jgmm.numerics.processes import over_processes
from jgmm.numerics.sharding import free_axes
from jgmm.registry import BASES, COVARIANCES, PRIORS

# Streams of random numbers, folded into the seed.
EM_STREAM, NOISE_STREAM, STATISTICS_STREAM, SUMMARY_STREAM, BASIS_STREAM, LABEL_STREAM = range(6)
# Clusters that a basis is learned from, if there are rows enough for as many covariances of a block.
CLUSTERS = 100

# Where EM stops if nothing else is asked for: nats for every code, and the least of it for an image. Of blocks the rest
# is soon less than what the law of their labels brings.
TOLERANCE, LEAST_TOLERANCE, TOLERANCE_OF_BLOCKS = 1e-5, 1e-3, 1e-4


class Codes(NamedTuple):
    """What a mixture is fitted to.

    Attributes:
        encoder: Between pixels and codes.
        spectrum: What its PCA found, if there was one.
        values: The codes of the training images: an array, or a stream where the images are one.
        offset: What to add to their mean log-density for that of the pixels, nats per image.
        noisy: Whether the images had noise as wide as an 8-bit step.
        n_blocks: The number of blocks of an image that have components of their own.
        weight: How often each image counts; None for once.
    """

    encoder: Encoder
    spectrum: Spectrum | None
    values: Any
    offset: float
    noisy: bool
    n_blocks: int = 1
    weight: np.ndarray | None = None

    def nats(self, objective: float) -> float:
        """Nats an image of an objective in nats a row of what EM is fitted to."""
        return objective * self.n_blocks + self.offset


def fit_encoder(
    options: Common, train: Images, interrupted: InterruptedFit | None = None
) -> tuple[Encoder, Spectrum | None]:
    """The encoder of the training images that the options ask for; kept with, and taken from, an interrupted fit."""
    d = int(np.prod(train.shape))
    if options.n_pca == "none":
        return Identity(d), None
    fitted = interrupted.load_pca(options.dtype) if interrupted else None
    if fitted is None:
        fitted = fit_pca(
            train.pixels if train.on_disk else train.pixels.reshape(len(train), -1),
            options.n_principal,
            weight=train.weight,
            residual=options.residual,
            **train.units._asdict(),
            noise_variance=CELL_VARIANCE if options.dequantize and train.is_8_bit else 0.0,
            **_scatter(options, train),
            dtype=options.dtype,
        )
        if interrupted:
            interrupted.save_pca(*fitted)
    pca, spectrum = fitted
    _say_spectrum(pca, spectrum)
    name, block = basis_of(options, train.shape)
    if block is None:
        print("basis: the principal axes")
        return pca, spectrum
    print(f"basis: {name}, blocks of {block}x{block} pixels of the whitened image")
    rotation = turn(patterns(BASES[name], train.shape, block), np.asarray(pca.components[: pca.n_codes]))
    encoder = RotatedPCA.of(pca, rotation)
    if name == "learned":
        encoder = _learned(options, train, block, encoder, spectrum, interrupted)
    return encoder, spectrum


def _scatter(options: Common, train: Images) -> dict[str, Any]:
    """Which scatter of the images `fit_pca` takes the components of."""
    whole = is_local(options, train.shape)
    robust = whole if options.scatter == "auto" else options.scatter == "robust"
    mirror = mirror_of(train.shape) if options.symmetric and whole and train.has_mirror_images else None
    print(
        f"PCA: {'robust scatter' if robust else 'covariance'}"
        + (", mirror images as likely" if mirror is not None else "")
    )
    return {"mirror": mirror, "robust": robust}


def _learned(
    options: Common,
    train: Images,
    block: int,
    start: RotatedPCA,
    spectrum: Spectrum,
    interrupted: InterruptedFit | None,
) -> RotatedPCA:
    """An encoder whose axes, block by block, are those that clusters of images have in common."""
    d, p = start.n_codes, int(np.prod(train.shape))
    check(not train.on_disk, "--basis learned sees all images at once: choose another basis, or --stream never.")
    check(d == p, f"only {d} of {p} directions have variance, and no blocks to learn axes of: choose --basis cosine.")
    turns = interrupted.load_turns(options.dtype) if interrupted else None
    if turns is None:
        codes = to_codes(options, train, start, spectrum).values
        size = block * block * train.shape[-1]
        key = jax.random.fold_in(jax.random.key(options.seed), BASIS_STREAM)
        clusters = log_energy(key, codes, max(1, min(CLUSTERS, len(train) // size)), jnp.ones_like(codes[0]))
        turns = learned_turns(np.asarray(codes), np.asarray(clusters), size)
        if interrupted:
            interrupted.save_turns(turns)
    return start.turned(turns)


def _say_spectrum(pca: PCA, spectrum: Spectrum) -> None:
    d = len(spectrum.variances)
    print(
        f"PCA: {spectrum.n_codes} of {d} directions are codes and explain {100 * spectrum.explained:.2f}% of the "
        f"variance; variances from {spectrum.variances[0]:.3g} to {spectrum.variances[spectrum.rank - 1]:.3g}"
    )
    if spectrum.rank < d:
        print(
            f"PCA: {d - spectrum.rank} direction(s) have no variance in the data"
            + (f"; they are given a floor of {spectrum.floor:.3g}" if pca.has_density else "")
        )


def to_codes(
    options: Common, images: Images, encoder: Encoder, spectrum: Spectrum | None, scratch: Path | None = None
) -> Codes:
    """The codes of images, with the noise that --dequantize asks for; where the images are on disk, codes are written
    to the file `scratch`, and read from there in every pass."""
    shape, on_disk = (len(images), encoder.n_codes), images.on_disk and scratch is not None
    values = np.empty((0, shape[1]) if on_disk else shape, options.dtype)
    pieces, start = _pieces(options, images, encoder), 0
    with open(scratch, "wb") if scratch and on_disk else nullcontext() as file:
        kept = []
        for z, often, log_residual in pieces:
            kept.append((often @ log_residual, often.sum()))
            if file is None:
                values[start : start + len(z)] = z
            else:
                with faults(f"write {scratch}"):
                    z.tofile(file)
            start += len(z)
    found: Any = values if free_axes() else jnp.asarray(values)
    found = File(scratch, 0, shape, values.dtype) if scratch and on_disk else found
    return Codes(encoder, spectrum, found, _offset(encoder, kept), _noisy(options, images), weight=images.weight)


def _noisy(options: Common, images: Images) -> bool:
    return options.dequantize and images.is_8_bit


def _pieces(options: Common, images: Images, encoder: Encoder) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The codes of images, how often they count, and the log-density of their residuals, some at a time."""
    key = jax.random.fold_in(jax.random.key(options.seed), NOISE_STREAM) if _noisy(options, images) else None
    start = 0
    for x, n in feature_chunks(images.pixels, options.dtype, key):
        z, log_residual = encode_with_residual(encoder, x)
        often = np.ones(n) if images.weight is None else images.weight[start : start + n]
        yield np.asarray(z[:n]), often, np.asarray(log_residual, np.float64)[:n]
        start += n


def _offset(encoder: Encoder, sums: list[tuple[float, float]]) -> float:
    """What to add to the mean log-density of codes for that of the pixels, from sums over parts of the images."""
    log_residual, count = over_processes(np.sum(sums, axis=0))
    return float(log_residual / count) + float(encoder.log_det()) if encoder.has_density else 0.0


def say_what_varies(options: Common, train: Codes, held_out: Images | None) -> None:
    """Say what held-out images lose, whatever the mixture, where the training images do not vary at all."""
    spectrum, encoder = train.spectrum, train.encoder
    if held_out is None or spectrum is None or spectrum.rank == len(spectrum.variances) or not encoder.has_density:
        return
    sums = [(often @ log_residual, often.sum()) for _, often, log_residual in _pieces(options, held_out, encoder)]
    lost = train.offset - _offset(encoder, sums)
    if lost > 1:
        print(
            f"PCA: held-out images vary in directions that have no variance in the training images, which costs them "
            f"{lost:,.1f} nats each, whatever the mixture"
        )


def tolerance(options: Common, codes: Codes) -> float:
    """The change of the objective, nats a row of what EM is fitted to, below which it stops."""
    share = TOLERANCE if codes.n_blocks == 1 else TOLERANCE_OF_BLOCKS
    asked = max(LEAST_TOLERANCE, share * codes.values.shape[1]) if options.tol is None else options.tol
    return asked / codes.n_blocks


def family_of(options: Options) -> Family:
    """The family of the covariances: its name, or what it is of the rank asked for.

    Raises:
        InputError: For a rank or scales that the family does not have.
    """
    found, family = COVARIANCES.resolve(options.family), options.family
    if options.rank is not None:
        family = getattr(found, "of_rank", Covariance.of_rank)(options.rank)
    if options.scales > 1:
        check_scalable(blank_of(family, 1, 1))
    return family


def em_options(options: Common, codes: Codes, some: Float[Array, "n d"] | np.ndarray) -> dict[str, Any]:
    """What `jgmm.em.loop.run_em` is asked for when it is fitted to rows like these, whatever the mixture."""
    strength, prior = options.prior_strength, options.prior
    if prior == "auto":
        prior = "hierarchical" if codes.n_blocks == 1 else "data"
    return {
        "init": codes.encoder.initializer if options.init == "auto" else options.init,
        "metric": codes.encoder.code_variances() if codes.n_blocks == 1 else np.ones_like(some[0]),
        "n_init": options.n_init,
        "max_iter": options.max_iter,
        "tol": tolerance(options, codes),
        "prior": Prior() if strength == 0 else PRIORS[prior](some, strength),
        "floor": Floor(absolute=options.reg_covar, relative=options.relative_floor),
        "min_count": options.min_count,
    }
