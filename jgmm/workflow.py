"""The road from options to a run folder: data, rotation, EM, normalisation, evaluation, checkpoint, pictures."""

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm import bits, checkpoint, em, figures, pca, source
from jgmm.checks import InputError, check
from jgmm.covariance.base import Prior
from jgmm.data import Images, arrays, load, to_features
from jgmm.data.images import CELL_VARIANCE, STEP
from jgmm.em import EMState
from jgmm.options import Options
from jgmm.pca import PCA, Identity, Rotation, Spectrum
from jgmm.progress import Progress
from jgmm.report import CompileClock, Report, peak_memory_gib
from jgmm.source import Source
from jgmm.tables import COVARIANCES

OPTIONS = "options.json"
METRICS = "metrics.jsonl"
# Streams of random numbers, folded into the seed.
EM_KEY, DEQUANTISATION_KEY, STATISTICS_KEY, PICTURE_KEY, TRAINING_NOISE_KEY = range(5)
SHOWN = 100


@dataclass(frozen=True)
class Data:
    """The images of a run: those it is fitted to, and those kept out."""

    train: Images
    held_out: Images | None
    sha256: str


def run(options: Options) -> None:
    """Fit as the options say and write the run folder. Raises InputError for bad input, before anything is written."""
    clock, begun = CompileClock(), time.perf_counter()
    folder = options.run_folder
    if not options.resume:
        _check_free(folder)
    key = jax.random.key(options.seed)
    data = prepare(options)
    start = checkpoint.load(options.init_from) if options.init_from else None
    _check_start(options, data, start)

    progress = _open(folder, options)
    try:
        _fit_and_write(options, key, data, start, progress, clock, begun)
    except InputError:
        if not options.resume:
            _withdraw(folder, progress)
        raise


def _fit_and_write(
    options: Options,
    key: PRNGKeyArray,
    data: Data,
    start: Source | None,
    progress: Progress,
    clock: CompileClock,
    begun: float,
) -> None:
    folder = options.run_folder
    rotation, spectrum = _rotation(options, data.train, start, progress)
    noise = jax.random.fold_in(key, TRAINING_NOISE_KEY) if options.dequantize else None
    codes, offset = encode(rotation, data.train.pixels, options.dtype, noise)
    state, report = _fit(key, options, codes, offset, rotation, start, progress, clock)
    history = [objective + offset for objective in state.history]

    params = _normalised(key, options, Source(state.gmm, rotation, *_no_norm(data.train), data.train.shape))
    summary = summarise(key, params, data, state, report.seconds, clock)
    summary["command_seconds"] = round(time.perf_counter() - begun, 3)
    pictures = draw_pictures(folder, key, params, data.train, spectrum, history, state.converged)
    _finish(folder, options, data, params, history, summary, spectrum)
    progress.remove()
    _print(summary, folder, pictures)


def _withdraw(folder: Path, progress: Progress) -> None:
    """Take back what a fit that was refused half-way has written."""
    progress.remove()
    (folder / METRICS).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def prepare(options: Options) -> Data:
    """Load, hold out, mirror. Raises InputError for data that cannot be fitted."""
    images = arrays.load(options.data) if options.data else load(options.dataset, options.data_dir)
    print(f"{images.name}: {len(images):,} examples of {images.shape} {images.pixels.dtype} from {images.location}")
    order = np.random.default_rng(options.seed).permutation(len(images))
    n_held_out = round(options.holdout * len(images))
    check(
        options.holdout == 0 or n_held_out > 0,
        f"--holdout {options.holdout} of {len(images)} examples is none.",
    )
    train = images.take(np.sort(order[n_held_out:])) if n_held_out else images
    held_out = images.take(np.sort(order[:n_held_out])) if n_held_out else None
    check(
        len(train) >= options.k,
        f"{len(train)} examples are too few for --k {options.k}: lower k or bring more data.",
    )
    return Data(train.with_mirror_images() if options.augmentation else train, held_out, images.sha256)


def encode(
    rotation: Rotation, pixels: np.ndarray, dtype: str, dequantisation: PRNGKeyArray | None = None
) -> tuple[Float[Array, "n d"], float]:
    """Codes of all images, with uniform noise if a key is given; and what to add to their mean log-density for that of
    the pixels: nats an image."""
    rows = bits.ROWS
    codes = np.empty((len(pixels), rotation.n_codes), dtype)
    log_residual = 0.0
    for i, start in enumerate(range(0, len(pixels), rows)):
        x = to_features(pixels[start : start + rows], dtype)
        n = len(x)
        x = np.pad(x, ((0, rows - n), (0, 0)))  # one compiled shape
        if dequantisation is not None:
            x = x + bits.cell_noise(jax.random.fold_in(dequantisation, i), x.shape, x.dtype)
        z, log_r = pca.encode_with_residual(rotation, jnp.asarray(x))
        codes[start : start + n] = z[:n]
        log_residual += np.asarray(log_r, np.float64)[:n].sum()
    offset = log_residual / len(pixels) + float(rotation.log_det()) if rotation.has_density else 0.0
    return jnp.asarray(codes), offset


def summarise(
    key: Array, params: Source, data: Data, state: EMState, seconds: list[float], clock: CompileClock
) -> dict[str, Any]:
    """The figures of the exit summary."""
    counts = np.asarray(state.counts)
    summary: dict[str, Any] = {
        "iterations": len(state.history),
        "converged": state.converged,
        "revived": state.revived,
        "smallest_component": float(counts.min()),
    }
    if params.rotation.has_density:
        noise = jax.random.fold_in(key, DEQUANTISATION_KEY)
        parts = {"train": data.train.pixels} | ({"held_out": data.held_out.pixels} if data.held_out else {})
        for part, pixels in parts.items():
            summary[f"log_likelihood_{part}"] = bits.mean_log_prob(params, pixels)
            if data.train.is_8_bit:
                summary[f"bits_per_dim_{part}"] = bits.bits_per_dim(noise, params, pixels)
    else:
        summary["log_likelihood_of_codes"] = state.log_likelihoods[-1]  # before the last M-step
    return summary | {
        "seconds_per_iteration": float(np.median(seconds)) if seconds else None,
        "compile_seconds": clock.seconds,
        "peak_memory_gib": peak_memory_gib(),
    }


def draw_pictures(
    folder: Path,
    key: Array,
    params: Source,
    train: Images,
    spectrum: Spectrum | None,
    history: list[float],
    converged: bool,
) -> list[Path]:
    """The pictures of a run, in its folder."""
    gmm, rotation = params.gmm, params.rotation
    means = rotation.decode(gmm.means, jnp.zeros((gmm.k, rotation.n_residual), gmm.means.dtype))
    x0 = source.sample(jax.random.fold_in(key, PICTURE_KEY), params, SHOWN)
    pixels = np.asarray(x0 * params.std[None] + params.mean[None])
    chosen = np.random.default_rng(0).choice(len(train), min(SHOWN, len(train)), replace=False)
    shown = to_features(train.pixels[chosen]).reshape(-1, *train.shape)
    paths = [folder / f"{name}.png" for name in ("means", "samples", "likelihood", "spectrum")]
    figures.component_means(paths[0], np.asarray(means).reshape(-1, *train.shape), np.exp(gmm.log_weights))
    figures.samples_beside_data(paths[1], pixels, shown)
    figures.likelihood(paths[2], history, converged)
    if spectrum is None:
        return paths[:3]
    figures.spectrum(paths[3], spectrum.variances, spectrum.n_codes)
    return paths


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
    codes: Array,
    offset: float,
    rotation: Rotation,
    start: Source | None,
    progress: Progress,
    clock: CompileClock,
) -> tuple[EMState, Report]:
    # The prior is centred on the variance of the data: 1 for whitened codes.
    scale = 1.0 if isinstance(rotation, PCA) else float(codes.var(axis=0).mean())
    prior = Prior(options.prior_strength, scale, options.reg_covar)
    family = COVARIANCES.canonical(options.covariance_type)
    first = None
    if start is not None:
        same = checkpoint.covariance_name(start.gmm) == family
        first = start.gmm if same else em.in_family(start.gmm, codes, prior, covariance_type=family)
    resumed = progress.load(options.k, codes.shape[1], family, codes.dtype) if options.resume else None
    path = options.run_folder / METRICS
    report = Report(path, options.max_iter, offset, clock, resumed)
    if resumed:
        report.say(f"resuming after iteration {len(resumed.history)} of start {resumed.restart + 1}")

    def follow(state: EMState) -> None:
        report(state)
        progress.save(state)

    state = em.fit(
        jax.random.fold_in(key, EM_KEY),
        codes,
        k=options.k,
        covariance_type=family,
        init=options.init,
        metric=rotation.code_variances(),
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


def _rotation(
    options: Options, train: Images, start: Source | None, progress: Progress
) -> tuple[Rotation, Spectrum | None]:
    d = int(np.prod(train.shape))
    if start is not None:
        print("codes: those of the run that EM starts from")
        return start.rotation, None
    if options.n_pca == "none":
        return Identity(d), None
    fitted = progress.load_rotation(options.dtype)
    if fitted is None:
        fitted = pca.fit(
            train.pixels.reshape(len(train), -1),
            options.n_components,
            residual=options.residual,
            scale=STEP if train.is_8_bit else 1.0,
            shift=-1.0 if train.is_8_bit else 0.0,
            # 8-bit values carry no more than their cell, whose variance this is.
            floor=CELL_VARIANCE if train.is_8_bit else None,
            noise_variance=CELL_VARIANCE if options.dequantize else 0.0,
            dtype=options.dtype,
        )
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
    samples = (jax.random.fold_in(key, STATISTICS_KEY), n, options.batch_size) if n else None
    return source.normalize(params, options.normalize, samples=samples)


def _no_norm(train: Images) -> tuple[Array, Array]:
    ones = jnp.ones((1,) * len(train.shape))
    return jnp.zeros_like(ones), ones


def _finish(
    folder: Path,
    options: Options,
    data: Data,
    params: Source,
    history: list[float],
    summary: dict[str, Any],
    spectrum: Spectrum | None,
) -> None:
    images = data.train
    found = {} if spectrum is None else {"rank": spectrum.rank, "explained": spectrum.explained}
    info = {
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
    checkpoint.save(folder, params, info)


def _check_free(folder: Path) -> None:
    check(
        not (folder / checkpoint.CONFIG).exists(),
        f"{folder} already holds a run: choose another --out, or delete it first.",
    )
    check(
        not (folder / checkpoint.PROGRESS).exists(),
        f"{folder} holds an interrupted fit: go on with --resume, choose another --out, or delete it first.",
    )
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    check(existing.is_dir(), f"cannot write to {folder}: {existing} is not a folder.")
    check(os.access(existing, os.W_OK | os.X_OK), f"cannot write to {folder}: {existing} is not writable.")


def _check_start(options: Options, data: Data, start: Source | None) -> None:
    d = int(np.prod(data.train.shape))
    n = options.n_components
    check(
        not options.dequantize or data.train.is_8_bit,
        f"--dequantize is for 8-bit images, the data are {data.train.pixels.dtype}.",
    )
    bound = min(len(data.train), d)
    check(n is None or n <= bound, f"--n-pca must be at most min(N, D) = {bound}, got {n}.")
    check(
        _varies(data.train.pixels),
        "the data are constant: every example is the same, there is nothing to fit.",
    )
    if start is None:
        return
    check(
        start.gmm.k == options.k,
        f"--init-from holds {start.gmm.k} components, --k asks for {options.k}: pass --k {start.gmm.k}.",
    )
    check(
        start.shape == data.train.shape,
        f"--init-from models examples of shape {start.shape}, the data have {data.train.shape}.",
    )
    check(
        str(start.gmm.means.dtype) == options.dtype,
        f"--init-from was computed in {start.gmm.means.dtype}: pass --dtype {start.gmm.means.dtype}.",
    )
    check(
        options.n_pca == "all",
        "--init-from brings the principal components of its own run: leave --n-pca out.",
    )


def _varies(pixels: np.ndarray) -> bool:
    return bool((pixels != pixels[0]).any())


def _open(folder: Path, options: Options) -> Progress:
    try:
        progress = Progress(folder)
        checkpoint.write_json(progress.folder / OPTIONS, options.to_json())
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}") from error
    return progress


def _print(summary: dict[str, Any], folder: Path, pictures: list[Path]) -> None:
    names = {
        "log_likelihood_train": "mean log-likelihood, training images",
        "log_likelihood_held_out": "mean log-likelihood, images kept out",
        "log_likelihood_of_codes": "mean log-likelihood of the codes",
        "bits_per_dim_train": "bits per dimension, training images with uniform noise",
        "bits_per_dim_held_out": "bits per dimension, images kept out with uniform noise",
    }
    state = "converged" if summary["converged"] else "NOT converged: raise --max-iter or --tol"
    print(f"\n{summary['iterations']} iterations, {state}")
    for name, words in names.items():
        if name in summary:
            unit = "" if name.startswith("bits") else " nats an image"
            print(f"{words}: {summary[name]:.4f}{unit}")
    print(f"smallest component: {summary['smallest_component']:.1f} images")
    if summary["seconds_per_iteration"] is not None:
        print(
            f"seconds per iteration: {summary['seconds_per_iteration']:.3f} (median), "
            f"compiling: {summary['compile_seconds']:.1f} s, command: {summary['command_seconds']:.1f} s, "
            f"peak memory: {summary['peak_memory_gib']:.2f} GiB"
        )
    print(f"run: {folder}\npictures: " + "  ".join(str(p) for p in pictures))
