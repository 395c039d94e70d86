"""The end of a fit: normalization, the exit summary, pictures, and the run folder."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jgmm.checkpoint.files import PRIOR, TRAIN_LOG_PROB
from jgmm.checkpoint.interrupted import numbers_of
from jgmm.checkpoint.journal import Mark
from jgmm.checkpoint.models import save_run
from jgmm.commands.blocks import product_of
from jgmm.commands.codes import (
    STATISTICS_STREAM,
    SUMMARY_STREAM,
    Codes,
)
from jgmm.commands.inputs import Data
from jgmm.commands.options import Options
from jgmm.commands.progress import CompileClock
from jgmm.commands.summary import draw_pictures, mean_of_codes, show, summarize
from jgmm.em.loop import EMState
from jgmm.em.rows import Rows
from jgmm.encoder.pca import Spectrum
from jgmm.mixture import GMM
from jgmm.numerics.processes import on_own_devices, own, wait
from jgmm.source import Source, normalize, unnormalized


class Found(NamedTuple):
    """A fit that is done: the last state of EM and the mixture that came of it, and the seconds of the iterations that
    were made now."""

    state: EMState
    gmm: GMM
    mark: Mark
    seconds: list[float]


def finish(
    options: Options,
    data: Data,
    codes: Codes,
    rows: Rows,
    found: Found,
    clock: CompileClock,
    begun: float,
) -> None:
    """Normalize a fitted mixture, evaluate it, and write the run folder with its pictures."""
    state, encoder = found.state, codes.encoder
    mixture: Any = found.gmm
    history = [codes.nats(objective) for objective in state.history]
    plain = options.blocks is None and codes.noisy
    of_codes = mean_of_codes(found.gmm, rows) if plain else None
    with on_own_devices():
        if jax.process_count() > 1:
            mixture, encoder = own(mixture), own(encoder)
        if options.blocks is not None:
            mixture = product_of(options, codes, found.gmm, data.train.shape)
        key = jax.random.key(options.seed)
        source = _normalized(key, options, unnormalized(mixture, encoder, data.train.shape))
        summary_key = jax.random.fold_in(key, SUMMARY_STREAM)
        goes_on = options.minibatch is None
        seen = found.seconds, clock
        summary, log_prob = summarize(summary_key, source, data, codes, of_codes, goes_on, state, *seen)
        if jax.process_index() == 0:
            _write(options, data, codes, source, found, history, summary, log_prob, begun)
    wait("the run is written")


def _write(
    options: Options,
    data: Data,
    codes: Codes,
    source: Source,
    found: Found,
    history: list[float],
    summary: dict[str, Any],
    log_prob: np.ndarray | None,
    begun: float,
) -> None:
    """The run folder, with its pictures."""
    folder, key, state = options.run_folder, jax.random.key(options.seed), found.state
    summary_key = jax.random.fold_in(key, SUMMARY_STREAM)
    summary["command_seconds"] = round(time.perf_counter() - begun, 3)
    pictures = draw_pictures(folder, summary_key, source, data.train, codes.spectrum, history, state.converged)
    info = _info(options, data, history, summary, codes.spectrum)
    info |= {"em": numbers_of(state), "journal": found.mark._asdict()}
    others = {} if log_prob is None else {TRAIN_LOG_PROB: log_prob}
    if jnp.ndim(state.prior.mean) > 0:
        others |= {name: np.asarray(getattr(state.prior, field)) for field, name in PRIOR.items()}
        info |= {"prior": {name: float(getattr(state.prior, name)) for name in ("strength", "mean_strength")}}
    save_run(folder, source, info, others)
    show(summary, folder, pictures)


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
            "train_examples": data.n_train,
            "held_out_examples": data.n_held_out,
            "shape": list(images.shape),
            "dtype": str(images.pixels.dtype),
            "pixels": images.convention,
        },
        "pca": found,
        "summary": summary,
        "history": history,
    }
