"""The road from options to a run folder: data, rotation, EM, normalisation, checkpoint."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm import checkpoint, em, mixture, pca, scores, source
from jgmm.checks import InputError, check
from jgmm.covariance.base import Prior
from jgmm.data import Images, to_features
from jgmm.data.images import CELL_VARIANCE
from jgmm.em import EMState
from jgmm.inputs import Data, check_data, check_free, check_start, prepare
from jgmm.options import Common, Options
from jgmm.pca import Identity, Rotation, Spectrum
from jgmm.progress import Progress
from jgmm.report import CompileClock, Report
from jgmm.source import Source
from jgmm.summary import draw_pictures, show, summarise
from jgmm.tables import COVARIANCES

OPTIONS = "options.json"
METRICS = "metrics.jsonl"
# Streams of random numbers, folded into the seed.
EM, TRAINING_NOISE, STATISTICS, SUMMARY = range(4)


class Codes(NamedTuple):
    """What a mixture is fitted to.

    Fields:
        rotation: between pixels and codes.
        spectrum: what its PCA found, if there was one.
        values: the codes of the training images.
        offset: what to add to their mean log-density for that of the pixels, nats an image.
    """

    rotation: Rotation
    spectrum: Spectrum | None
    values: Float[Array, "n d"]
    offset: float


def run(options: Options) -> None:
    """Fit as the options say and write the run folder.

    Raises InputError for bad input, and then leaves nothing behind; once a fit is done nothing takes it back.
    """
    clock, begun = CompileClock(), time.perf_counter()
    folder = options.run_folder
    if not options.resume:
        check_free(folder)
    key = jax.random.key(options.seed)
    data = prepare(options, options.k)
    check_data(options, data)
    start = checkpoint.load(options.init_from) if options.init_from else None
    if start is not None:
        check_start(options, data, start)

    progress = _open(folder, options)
    try:
        rotation, spectrum = _codes_of(start) if start is not None else rotate(options, data.train, progress)
        codes = to_codes(options, data.train, rotation, spectrum)
        state, report = _fit(key, options, codes, start, progress, clock)
    except InputError:
        if not options.resume:
            _withdraw(folder, progress)
        raise
    finish(options, data, codes, state, report.seconds, clock, begun)
    progress.remove()


def finish(
    options: Options,
    data: Data,
    codes: Codes,
    state: EMState,
    seconds: list[float],
    clock: CompileClock,
    begun: float,
) -> None:
    """Normalise a fitted mixture, evaluate it, and write the run folder with its pictures."""
    folder, key = options.run_folder, jax.random.key(options.seed)
    history = [objective + codes.offset for objective in state.history]
    params = _normalised(key, options, source.unnormalised(state.gmm, codes.rotation, data.train.shape))
    summary_key = jax.random.fold_in(key, SUMMARY)
    summary, log_prob = summarise(summary_key, params, data, state, seconds, clock)
    summary["command_seconds"] = round(time.perf_counter() - begun, 3)
    pictures = draw_pictures(folder, summary_key, params, data.train, codes.spectrum, history, state.converged)
    if log_prob is not None:
        np.save(folder / checkpoint.TRAIN_LOG_PROB, log_prob)
    checkpoint.save(folder, params, _info(options, data, history, summary, codes.spectrum))
    show(summary, folder, pictures)


def to_codes(options: Common, images: Images, rotation: Rotation, spectrum: Spectrum | None) -> Codes:
    """The codes of images, with the noise that --dequantize asks for."""
    noise = jax.random.fold_in(jax.random.key(options.seed), TRAINING_NOISE) if options.dequantize else None
    return Codes(rotation, spectrum, *encode(rotation, images.pixels, options.dtype, noise))


def encode(
    rotation: Rotation, pixels: np.ndarray, dtype: str, dequantisation: PRNGKeyArray | None = None
) -> tuple[Float[Array, "n d"], float]:
    """Codes of all images, with uniform noise if a key is given; and what to add to their mean log-density for that of
    the pixels: nats an image."""
    rows = scores.ROWS
    codes = np.empty((len(pixels), rotation.n_codes), dtype)
    log_residual = 0.0
    for i, start in enumerate(range(0, len(pixels), rows)):
        x = to_features(pixels[start : start + rows], dtype)
        n = len(x)
        x = np.pad(x, ((0, rows - n), (0, 0)))  # one compiled shape
        if dequantisation is not None:
            x = x + scores.cell_noise(jax.random.fold_in(dequantisation, i), x.shape, x.dtype)
        z, log_r = pca.encode_with_residual(rotation, jnp.asarray(x))
        codes[start : start + n] = z[:n]
        log_residual += np.asarray(log_r, np.float64)[:n].sum()
    offset = log_residual / len(pixels) + float(rotation.log_det()) if rotation.has_density else 0.0
    return jnp.asarray(codes), offset


def interrupted_options(folder: Path) -> Options:
    """The options of the interrupted run in a folder. Raises InputError if there is none."""
    check(
        not (folder / checkpoint.CONFIG).exists(),
        f"{folder} holds a finished run: there is nothing to resume. Load it, or choose another --out.",
    )
    path = folder / checkpoint.PROGRESS / OPTIONS
    check(path.is_file(), f"{folder} holds no interrupted fit to resume.")
    return Options.from_json(json.loads(path.read_text()))


def check_resumed(kept: Options, given: Options) -> Options:
    """The options to resume with. Raises InputError if a flag is given that differs from the interrupted run's."""
    differing = kept.difference(given)
    check(
        differing is None,
        f"{differing} differs from the interrupted run's: a resumed fit keeps its options. Leave the flag out.",
    )
    return replace(given, resume=True)


def _fit(
    key: Array,
    options: Options,
    codes: Codes,
    start: Source | None,
    progress: Progress,
    clock: CompileClock,
) -> tuple[EMState, Report]:
    x, prior = codes.values, prior_of(options, codes.values)
    family = COVARIANCES.canonical(options.covariance_type)
    first = None
    if start is not None:
        same = mixture.covariance_name(start.gmm) == family
        first = start.gmm if same else em.in_family(start.gmm, x, prior, covariance_type=family)
    resumed = progress.load(options.k, x.shape, family, x.dtype) if options.resume else None
    path = options.run_folder / METRICS
    report = Report(path, options.max_iter, codes.offset, clock, resumed)
    if resumed:
        report.say(f"resuming after iteration {len(resumed.history)} of start {resumed.restart + 1}")

    def follow(state: EMState) -> None:
        report(state)
        progress.save(state)

    state = em.fit(
        jax.random.fold_in(key, EM),
        x,
        k=options.k,
        covariance_type=family,
        init=options.init,
        metric=codes.rotation.code_variances(),
        n_init=options.n_init,
        max_iter=options.max_iter,
        tol=options.tol,
        prior=prior,
        chunk_size=options.chunk_size,
        start=first,
        state=resumed,
        callback=follow,
    )
    report.close()
    return state, report


def prior_of(options: Common, x: Float[Array, "n d"]) -> Prior:
    """The prior that the options ask for, centred on the variance of the data: 1 for whitened codes."""
    return Prior(options.prior_strength, float(x.var(axis=0).mean()), options.reg_covar, options.relative_floor)


def _codes_of(start: Source) -> tuple[Rotation, None]:
    print("codes: those of the run that EM starts from")
    return start.rotation, None


def rotate(options: Common, train: Images, progress: Progress | None = None) -> tuple[Rotation, Spectrum | None]:
    """The rotation of the training images that the options ask for; kept with, and taken from, an interrupted fit."""
    d = int(np.prod(train.shape))
    if options.n_pca == "none":
        return Identity(d), None
    fitted = progress.load_rotation(options.dtype) if progress else None
    if fitted is None:
        fitted = pca.fit(
            train.pixels.reshape(len(train), -1),
            options.n_components,
            residual=options.residual,
            **train.units._asdict(),
            noise_variance=CELL_VARIANCE if options.dequantize else 0.0,
            dtype=options.dtype,
        )
        if progress:
            progress.save_rotation(*fitted)
    rotation, spectrum = fitted
    print(
        f"PCA: {spectrum.n_codes} of {d} directions are codes and explain {100 * spectrum.explained:.2f}% of the "
        f"variance; variances from {spectrum.variances[0]:.3g} to {spectrum.variances[spectrum.rank - 1]:.3g}"
    )
    if spectrum.rank < d:
        print(
            f"PCA: {d - spectrum.rank} direction(s) have no variance in the data"
            + (f"; they are given a floor of {spectrum.floor:.3g}" if rotation.has_density else "")
        )
    return rotation, spectrum


def _normalised(key: Array, options: Options, params: Source) -> Source:
    n = options.n_stat_samples
    samples = (jax.random.fold_in(key, STATISTICS), n, options.batch_size) if n else None
    return source.normalize(params, options.normalize, samples=samples)


def _info(
    options: Options, data: Data, history: list[float], summary: dict[str, Any], spectrum: Spectrum | None
) -> dict[str, Any]:
    images = data.train
    found = {} if spectrum is None else {"rank": spectrum.rank, "explained": spectrum.explained}
    return {
        "options": options.to_json(),
        "seed": options.seed,
        "data": {
            "name": images.name,
            "location": images.location,
            "sha256": data.sha256,
            "train_examples": len(images),
            "held_out_examples": len(data.held_out) if data.held_out else 0,
            "shape": list(images.shape),
            "dtype": str(images.pixels.dtype),
        },
        "pca": found,
        "summary": summary,
        "history": history,
    }


def _open(folder: Path, options: Options) -> Progress:
    try:
        progress = Progress(folder)
        checkpoint.write_json(progress.folder / OPTIONS, options.to_json())
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}") from error
    return progress


def _withdraw(folder: Path, progress: Progress) -> None:
    """Take back what a fit that was refused half-way has written."""
    progress.remove()
    (folder / METRICS).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
