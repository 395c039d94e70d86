"""The road from options to a run folder: data, codes, EM, normalization, checkpoint."""

import time
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jgmm.checkpoint.files import CONFIG, PRIOR
from jgmm.checkpoint.interrupted import InterruptedFit, kept_options, state_of
from jgmm.checkpoint.journal import Mark
from jgmm.checkpoint.models import load_source, read_config, read_other
from jgmm.commands.blocks import check_blocks, grid_of, one_mixture, parents_of, rows_of
from jgmm.commands.codes import (
    EM_STREAM,
    Codes,
    em_options,
    family_of,
    fit_encoder,
    say_what_varies,
    to_codes,
)
from jgmm.commands.finishing import Found, finish
from jgmm.commands.inputs import Data, check_data, check_free, check_start, prepare
from jgmm.commands.options import Options
from jgmm.commands.progress import CompileClock, Progress, Stage
from jgmm.covariance.prior import Prior, as_arrays
from jgmm.data.streams import Stream
from jgmm.em.loop import EMState, run_em
from jgmm.em.rows import Rows, RowsInMemory, on_mesh
from jgmm.em.scales import with_scales
from jgmm.em.stepwise import run_stepwise
from jgmm.em.streamed import on_disk as streamed
from jgmm.errors import Fault, InputError, check
from jgmm.mixture import GMM
from jgmm.numerics.processes import first_decides
from jgmm.numerics.sharding import free_axes
from jgmm.source import Source

METRICS = "metrics.jsonl"
# A prior is towards the data, where these are on disk or on many devices, of so many numbers of theirs.
FEW = 2**24


def run(options: Options) -> None:
    """Fit as the options say and write the run folder, which the caller holds (`jgmm.checkpoint.lock`).

    Raises:
        InputError: For bad input, and then leaves nothing behind; once a fit is done nothing takes it back.
    """
    begun = time.perf_counter()
    folder = options.run_folder
    family_of(options)  # which must be one
    if not options.resume:
        first_decides(lambda: check_free(folder))
    before = load_source(folder) if (folder / CONFIG).exists() else None
    data = prepare(options, options.k)
    check_data(options, data)
    parents_of(options, data.train.shape)  # which must be found after the fit
    _check_same_data(options, data)
    start = load_source(options.init_from) if options.init_from and before is None else None
    if start is not None:
        check_start(options, data, start)

    try:
        _go_on(options, data, before, start, begun)
    except KeyboardInterrupt:
        if options.minibatch is not None:
            _withdraw(folder, InterruptedFit(folder))
            raise
        print(f"stopped; go on with: python -m jgmm.fit --out {folder} --resume", flush=True)
        raise


def _go_on(options: Options, data: Data, before: Source | None, start: Source | None, begun: float) -> None:
    """A fit from where it stands to its end."""
    folder, interrupted = options.run_folder, InterruptedFit(options.run_folder)
    with CompileClock() as clock:
        try:
            codes = _codes(options, data, before or start, interrupted)
            _check_whole(options, codes)
            say_what_varies(options, codes, data.held_out)
            task = Task.of(options, codes)
            point = _resumed(options, task, before, interrupted)
            if before is not None and _is_done(options, point):
                further = " Raise --max-iter, or lower --tol, to go on." if options.scales == 1 else ""
                print(f"nothing to do: the fit is finished.{further}")
                interrupted.remove()
                return
            if before is not None and options.scales > 1:
                interrupted.remove()
                raise InputError(f"{folder} is done, and its scales cannot be undone: start from it by --init-from.")
            if before is not None and point.state is not None:
                interrupted.save(point.state, point.mark, at_once=True)
            if options.minibatch is None:
                interrupted.save_options(options.to_json(), data.sha256)
            found = _fit(options, codes, task, start, point, interrupted, clock)
            if (options.blocks is not None or options.scales > 1) and options.minibatch is None:  # which are to come
                interrupted.save(found.state, found.mark, at_once=True)
        except InputError as error:
            if not options.resume and not isinstance(error, Fault):
                _withdraw(folder, interrupted)
            raise
        if options.scales > 1:
            found = found._replace(gmm=_scaled(options, codes, task, found.state))
        finish(options, data, codes, task.rows, found, clock, begun)
    interrupted.remove()


class Point(NamedTuple):
    """Where a fit stands (None before it begins), and how far its journal has come."""

    state: EMState | None
    mark: Mark


class Task(NamedTuple):
    """What EM is fitted to, and what `jgmm.em.loop.run_em` is asked for."""

    rows: Rows
    options: dict[str, Any]

    @classmethod
    def of(cls, options: Options, codes: Codes) -> "Task":
        """The rows that the options choose of the codes."""
        chosen = rows_of(options, codes)
        weight = None if codes.weight is None else codes.weight.astype(chosen.dtype)
        if isinstance(chosen, Stream):
            on_disk = streamed(chosen, weight, chosen.dtype, options.chunk_size)
            few, _ = on_disk.sample(jax.random.key(options.seed), FEW)
            return cls(on_disk, em_options(options, codes, few))
        rows = on_mesh(chosen, weight, options.chunk_size)
        some = rows.sample(jax.random.key(options.seed), FEW)[0] if free_axes() else chosen
        return cls(rows, em_options(options, codes, some))


def _check_whole(options: Options, codes: Codes) -> None:
    """Raise InputError for blocks of images where images are not those of one device, each of which counts once."""
    plain = not isinstance(codes.values, Stream) and codes.weight is None and not free_axes()
    check(
        options.blocks is None or plain,
        "--blocks fits a product on one device, to images in memory that count once: leave --mesh, --stream and "
        "--weights out.",
    )


def options_to_resume(folder: Path) -> Options:
    """The options of the interrupted or finished fit in a folder. Raises InputError if there is none."""
    return Options.from_json(_begun(folder)["options"])


def _begun(folder: Path) -> dict[str, Any]:
    """The options and the data of the interrupted or finished fit in a folder. Raises InputError if there is none."""
    kept = kept_options(folder)
    if kept is not None:
        return kept
    check((folder / CONFIG).exists(), f"{folder} holds no fit to resume.")
    config = read_config(folder)
    check("em" in config, f"{folder} cannot go on, it is of an earlier version: start from it with --init-from.")
    return config


def check_resumed(kept: Options, given: Options) -> Options:
    """The options to resume with. Raises InputError if a flag is given that would change what is done already."""
    differing = kept.difference(given, finished=(given.run_folder / CONFIG).exists())
    check(
        differing is None,
        f"{differing} differs from the run's, and something that is done already depends on it: leave the flag out.",
    )
    return replace(given, resume=True)


def _check_same_data(options: Options, data: Data) -> None:
    """Raise InputError unless a resumed fit is given the data that it began with."""
    folder = options.run_folder
    same = not options.resume or _begun(folder)["data"]["sha256"] == data.sha256
    check(same, f"{data.train.location} no longer holds the data that {folder} was begun with.")


def _codes(options: Options, data: Data, known: Source | None, interrupted: InterruptedFit) -> Codes:
    """What the mixture is fitted to; the encoder is fitted, or that of a source that is known."""
    if known is None:
        codes = to_codes(options, data.train, *fit_encoder(options, data.train, interrupted), interrupted.scratch)
    else:
        print("codes: those of the run that EM starts from")
        codes = to_codes(options, data.train, known.encoder, None, interrupted.scratch)
    grid = grid_of(options, data.train.shape)
    if grid is None:
        return codes
    check_blocks(options, codes, data.train.shape)
    return codes._replace(n_blocks=prod(grid))


def _resumed(options: Options, task: Task, before: Source | None, interrupted: InterruptedFit) -> Point:
    """Where a fit goes on from: its last state, the end of a finished one, or the beginning."""
    if not options.resume:
        return Point(None, Mark())
    x, family, asked = task.rows, family_of(options), task.options["prior"]
    prior = asked if isinstance(asked, Prior) else Prior()
    n = x.alike or x.shape[0] if isinstance(x, RowsInMemory) else x.shape[0]
    kept = interrupted.load(options.k, (n, x.shape[1]), family, x.dtype, prior)
    if kept is None and before is not None:
        config = read_config(options.run_folder)
        prior = _kept_prior(options.run_folder, config) or prior
        kept = state_of(one_mixture(before.gmm), config["em"], prior), Mark(**config["journal"])
    if kept is None:
        return Point(None, Mark())
    state, mark = kept
    changes = np.abs(np.diff(state.history[-2:]))
    return Point(replace(state, converged=state.converged and bool((changes < task.options["tol"]).all())), mark)


def _kept_prior(folder: Path, config: dict[str, Any]) -> Prior | None:
    """The prior that a finished fit had learned."""
    if "prior" not in config:
        return None
    arrays = {field: jnp.asarray(read_other(folder, config, name)) for field, name in PRIOR.items()}
    return Prior(**config["prior"], **arrays)


def _is_done(options: Options, point: Point) -> bool:
    """Whether a finished run is all that its options, as they are now, ask for."""
    state, config = point.state, read_config(options.run_folder)
    if state is None or not (state.converged or len(state.history) >= options.max_iter):
        return False
    begun = Options.from_json(config["options"])
    same = replace(begun, max_iter=options.max_iter).to_json() == options.to_json()
    return same and state.history == config["em"]["history"]


def _fit(
    options: Options,
    codes: Codes,
    task: Task,
    start: Source | None,
    point: Point,
    interrupted: InterruptedFit,
    clock: CompileClock,
) -> Found:
    """EM to its end."""
    last = point
    metrics = options.run_folder / METRICS if interrupted.writes else None
    progress = Progress(metrics, options.max_iter, codes, clock, *point)
    if point.state is not None:
        progress.say(f"resuming after iteration {len(point.state.history)} of start {point.state.restart + 1}")

    def follow(state: EMState) -> None:
        nonlocal last
        progress(state)
        last = Point(state, progress.journal.mark)
        if options.minibatch is None:
            interrupted.save(state, last.mark)

    try:
        done = (
            _by_batches(options, codes, task, follow)
            if options.minibatch
            else run_em(
                jax.random.fold_in(jax.random.key(options.seed), EM_STREAM),
                task.rows,
                k=options.k,
                covariance_type=family_of(options),
                **task.options,
                start=None if start is None else one_mixture(start.gmm),
                state=point.state,
                callback=follow,
            )
        )
    except KeyboardInterrupt:
        if last.state is not None and options.minibatch is None:
            interrupted.save(last.state, last.mark, at_once=True)
        raise
    progress.close()
    return Found(done, done.gmm, progress.journal.mark, progress.seconds)


def _by_batches(options: Options, codes: Codes, task: Task, follow: Callable[[EMState], None]) -> EMState:
    """Stepwise EM to its end."""
    asked = {name: value for name, value in task.options.items() if name not in ("n_init", "min_count")}
    return run_stepwise(
        jax.random.fold_in(jax.random.key(options.seed), EM_STREAM),
        codes.values if isinstance(codes.values, Stream) else np.asarray(codes.values),
        None if codes.weight is None else codes.weight.astype(codes.values.dtype),
        options.minibatch or 1,
        k=options.k,
        covariance_type=family_of(options),
        callback=follow,
        **asked,
    )


def _scaled(options: Options, codes: Codes, task: Task, state: EMState) -> GMM:
    """The mixture with all scales."""
    stage = Stage("scales", codes.nats)
    gmm, history, converged = with_scales(
        state.gmm,
        task.rows,
        options.scales,
        *as_arrays(state.prior, task.options["floor"], task.rows.dtype),
        max_iter=options.max_iter,
        tol=task.options["tol"],
        callback=stage,
    )
    stage.end(len(history), converged)
    return gmm


def _withdraw(folder: Path, interrupted: InterruptedFit) -> None:
    """Take back what a fit that was refused half-way has written."""
    interrupted.remove()
    if not interrupted.writes:
        return
    (folder / METRICS).unlink(missing_ok=True)
