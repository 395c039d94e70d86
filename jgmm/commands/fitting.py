"""The road from options to a run folder: data, codes, EM, normalization, checkpoint."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jgmm.checkpoint.files import CONFIG, PROGRESS, TRAIN_LOG_PROB, write_json
from jgmm.checkpoint.interrupted import InterruptedFit
from jgmm.checkpoint.models import load_source, save
from jgmm.commands.codes import (
    EM_STREAM,
    STATISTICS_STREAM,
    SUMMARY_STREAM,
    Codes,
    fit_encoder,
    prior_and_floor,
    to_codes,
)
from jgmm.commands.inputs import Data, check_data, check_free, check_start, prepare
from jgmm.commands.options import Options
from jgmm.commands.progress import CompileClock, Progress
from jgmm.commands.summary import draw_pictures, show, summarize
from jgmm.covariance.base import identity_of
from jgmm.covariance.prior import as_arrays
from jgmm.em.loop import EMState, run_em
from jgmm.em.rows import RowsInMemory
from jgmm.em.steps import in_family
from jgmm.encoder.pca import Spectrum
from jgmm.errors import InputError, check
from jgmm.mixture import GMM
from jgmm.registry import COVARIANCES
from jgmm.source import Source, normalize, unnormalized

OPTIONS = "options.json"
METRICS = "metrics.jsonl"


def run(options: Options) -> None:
    """Fit as the options say and write the run folder.

    Raises:
        InputError: For bad input, and then leaves nothing behind; once a fit is done nothing takes it back.
    """
    begun = time.perf_counter()
    folder = options.run_folder
    if not options.resume:
        check_free(folder)
    data = prepare(options, options.k)
    check_data(options, data)
    start = load_source(options.init_from) if options.init_from else None
    if start is not None:
        check_start(options, data, start)

    interrupted = _open(folder, options)
    with CompileClock() as clock:
        try:
            if start is None:
                encoder, spectrum = fit_encoder(options, data.train, interrupted)
            else:
                encoder, spectrum = start.encoder, None
                print("codes: those of the run that EM starts from")
            codes = to_codes(options, data.train, encoder, spectrum)
            state, seconds = _fit(options, codes, start, interrupted, clock)
        except InputError:
            if not options.resume:
                _withdraw(folder, interrupted)
            raise
        finish(options, data, codes, state, seconds, clock, begun)
    interrupted.remove()


def finish(
    options: Options,
    data: Data,
    codes: Codes,
    state: EMState,
    seconds: list[float],
    clock: CompileClock,
    begun: float,
) -> None:
    """Normalize a fitted mixture, evaluate it, and write the run folder with its pictures."""
    folder, key = options.run_folder, jax.random.key(options.seed)
    history = [objective + codes.offset for objective in state.history]
    source = _normalized(key, options, unnormalized(state.gmm, codes.encoder, data.train.shape))
    summary_key = jax.random.fold_in(key, SUMMARY_STREAM)
    summary, log_prob = summarize(summary_key, source, data, state, seconds, clock)
    summary["command_seconds"] = round(time.perf_counter() - begun, 3)
    pictures = draw_pictures(folder, summary_key, source, data.train, codes.spectrum, history, state.converged)
    if log_prob is not None:
        np.save(folder / TRAIN_LOG_PROB, log_prob)
    save(folder, source, _info(options, data, history, summary, codes.spectrum))
    show(summary, folder, pictures)


def interrupted_options(folder: Path) -> Options:
    """The options of the interrupted run in a folder. Raises InputError if there is none."""
    check(
        not (folder / CONFIG).exists(),
        f"{folder} holds a finished run: there is nothing to resume. Load it, or choose another --out.",
    )
    path = folder / PROGRESS / OPTIONS
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
    options: Options, codes: Codes, start: Source | None, interrupted: InterruptedFit, clock: CompileClock
) -> tuple[EMState, list[float]]:
    """The final state, and the seconds of every iteration."""
    x = codes.values
    family = COVARIANCES.canonical(options.covariance_type)
    prior, floor = prior_and_floor(options, x)
    resumed = interrupted.load(options.k, x.shape, family, x.dtype) if options.resume else None
    progress = Progress(options.run_folder / METRICS, options.max_iter, codes.offset, clock, resumed)
    if resumed:
        progress.say(f"resuming after iteration {len(resumed.history)} of start {resumed.restart + 1}")

    def follow(state: EMState) -> None:
        progress(state)
        interrupted.save(state)

    state = run_em(
        jax.random.fold_in(jax.random.key(options.seed), EM_STREAM),
        x,
        k=options.k,
        covariance_type=family,
        init=options.init,
        metric=codes.encoder.code_variances(),
        n_init=options.n_init,
        max_iter=options.max_iter,
        tol=options.tol,
        prior=prior,
        floor=floor,
        chunk_size=options.chunk_size,
        start=None if start is None else _start(options, start.gmm, codes),
        state=resumed,
        callback=follow,
    )
    progress.close()
    return state, progress.seconds


def _start(options: Options, gmm: GMM, codes: Codes) -> GMM:
    """The mixture of another run, in the family of this one."""
    family = COVARIANCES.canonical(options.covariance_type)
    if gmm.covariance.name == family:
        return gmm
    x = codes.values
    prior, floor = as_arrays(*prior_and_floor(options, x), x.dtype)
    return in_family(gmm, RowsInMemory(x, options.chunk_size), prior, floor, identity=identity_of(family))


def _normalized(key: Array, options: Options, source: Source) -> Source:
    n = options.n_stat_samples
    samples = (jax.random.fold_in(key, STATISTICS_STREAM), n, options.batch_size) if n else None
    return normalize(source, options.normalize, samples=samples)


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


def _open(folder: Path, options: Options) -> InterruptedFit:
    try:
        interrupted = InterruptedFit(folder)
        write_json(interrupted.folder / OPTIONS, options.to_json())
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}") from error
    return interrupted


def _withdraw(folder: Path, interrupted: InterruptedFit) -> None:
    """Take back what a fit that was refused half-way has written."""
    interrupted.remove()
    (folder / METRICS).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
