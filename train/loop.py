"""The training, from top to bottom."""

import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from jgmm.checkpoint.files import faults
from jgmm.checkpoint.journal import Mark
from jgmm.commands.inputs import check_free
from jgmm.data import is_image
from jgmm.errors import InputError
from jgmm.figures.images import sample_grid
from jgmm.figures.style import tile
from train import couplings, runs, sharding
from train import setup as setups
from train import step as steps
from train.batches import indices
from train.checkpoints import Checkpoints, abstract
from train.config import Config
from train.log import Log
from train.models.unet import n_parameters
from train.sampler import check_solver, images
from train.step import State, StepInputs


def train(config: Config) -> None:
    """Train as the options say, from the beginning or from the newest checkpoint, in a run folder that the caller holds
    (`jgmm.checkpoint.lock`).

    SIGTERM, and Ctrl-C, which then raises KeyboardInterrupt, save first.
    Raises:
        InputError: For bad input, when the loss is no longer finite, and when the disk is full.
    """
    with faults(f"write to {config.run_folder}, in which what was saved before is whole"):
        asked = _train(config)
    if asked == signal.SIGINT:
        raise KeyboardInterrupt


def _train(config: Config) -> int:
    """The signal that stopped it, or 0."""
    folder = config.run_folder
    check_solver(config.solver, config.nfe)
    sharding.check_batch(config.batch_size, config.accumulate)
    if not config.resume:
        check_free(folder, "go on with --resume, or choose another --out")
    mesh = sharding.mesh()
    setup = setups.build(config)
    config = setup.config
    model = setups.network(config, setup.images.shape, setup.classes)
    structure, parameters = nnx.split(model)
    data = setup.images
    print(f"{data.name}: {len(data):,} images of {data.shape} from {data.location}")
    where = f"{jax.device_count()} device(s), {jax.devices()[0].device_kind}, of {jax.process_count()} process(es)"
    print(f"{n_parameters(model):,} parameters; {where}")
    runs.begin(config, data, setup.classes, setup.base)

    state = steps.begin(config, parameters)
    places = sharding.of_state(mesh, state, config.fsdp)
    everywhere = sharding.replicated(mesh)
    inputs = jax.device_put(setup.inputs, everywhere)
    advance = jax.jit(steps.make_step(config, structure), donate_argnums=0, out_shardings=(places, everywhere))
    cost = jax.jit(steps.make_cost(config), out_shardings=everywhere)
    draw = jax.jit(images, static_argnames=("structure", "solver", "nfe"), out_shardings=everywhere)
    noise = _fixed_noise(config, inputs)
    labels = jnp.arange(config.n_samples, dtype=jnp.int32) % setup.classes if setup.classes else None

    def batch_of(at: int) -> tuple[jax.Array, jax.Array | None]:
        index = sharding.spread(indices(config.seed, at, len(data), config.batch_size), mesh)
        if not setup.inputs.coupling.assigned:
            return index, None
        return index, sharding.spread(couplings.assign(np.asarray(cost(inputs, jnp.array(at), index))), mesh)

    # Signals are noted until all is on disk.
    with _Signals() as stop, Checkpoints(folder, config.keep_last, config.keep_every) as saved:
        seen: list[dict[str, Any]] = []
        mark: Mark | None = Mark()
        if saved.steps and config.resume:
            state, numbers = saved.load(abstract(state, places))
            mark, seen = Mark(**numbers["journal"]) if numbers else None, numbers.get("seen", [])
            print(f"resuming after step {int(state.step)}")
        else:
            state = jax.device_put(state, places)
        at = int(state.step)
        if at >= config.steps:
            print(f"nothing to do: --steps {config.steps} are made. Give more to go on.")
        log = Log(folder, config.batch_size, at, config.steps, mark)

        def save() -> None:
            """Save the state, if the next step, made on a copy, finds it sound."""
            after, _ = advance(jax.tree.map(jnp.copy, state), inputs, *batch_of(at))
            _check_finite(after, folder)
            saved.save(at, state, {"journal": log.mark._asdict(), "seen": [_numbers(values) for values in seen]})

        stopped = False
        while at < config.steps and not stopped:
            state, values = advance(state, inputs, *batch_of(at))
            at += 1
            seen.append(values)
            last = at == config.steps
            if at % config.log_every == 0 or last:
                _check_finite(state, folder)
                log.log(at, _means(seen))
                seen = []
            if at % config.save_every == 0 or last:
                save()
            if (at % config.sample_every == 0 or last) and is_image(data.shape):
                grid = draw(structure, state.average, inputs.space, noise, labels, config.solver, config.nfe).x
                log.picture(at, _write_grid(folder / f"samples-{at:07d}.png", np.asarray(grid)))
                log.resume_clock()
            stopped = stop.agreed(at % config.log_every == 0)
        if stopped:
            save()
            print(f"stopped after step {at}; go on with: python -m train --out {folder} --resume")
        log.close()
    print(f"run: {folder}")
    return stop.asked


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(np.asarray(value)) for name, value in values.items()}


def _means(seen: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([np.asarray(values[name]) for values in seen])) for name in seen[0]}


def _check_finite(state: State, folder: Path) -> None:
    failed = int(state.failed)
    if failed >= 0:
        raise InputError(
            f"the loss or its gradient is not finite in step {failed}: lower --learning-rate, or compute in float32. "
            f"What was saved in {folder} is from before."
        )


def _fixed_noise(config: Config, inputs: StepInputs) -> jax.Array:
    """x0 of the grids: the same at every step."""
    key = jax.random.fold_in(jax.random.key(config.seed), steps.GRID_STREAM)
    return inputs.coupling.source.draw(key, config.n_samples)


def _write_grid(path: Path, pixels: np.ndarray) -> np.ndarray:
    if jax.process_index() == 0:
        sample_grid(path, pixels)
    return tile(pixels, int(np.ceil(np.sqrt(len(pixels)))))


class _Signals:
    """Notes SIGTERM, and Ctrl-C the first time, so that the training can save before it ends."""

    asked = 0

    def agreed(self, now: bool) -> bool:
        """Whether to stop. Several processes must stop at the same step: they ask each other, but only `now`."""
        if jax.process_count() == 1:
            return self.asked > 0
        return now and bool(multihost_utils.process_allgather(np.array(self.asked)).any())

    def __enter__(self) -> "_Signals":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number
        print("stopping after this step; Ctrl-C again stops at once", flush=True)
