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
from jgmm.errors import InputError, check
from jgmm.figures.images import sample_grid
from jgmm.figures.style import tile
from jgmm.numerics import sharding
from jgmm.numerics.devices import convolution_options
from train import flow, runs
from train import setup as setups
from train import step as steps
from train.batches import indices
from train.checkpoints import Checkpoints, abstract
from train.config import Config
from train.couplings.assignment import assign
from train.log import Log
from train.models.unet import UNet, n_parameters
from train.sampler import check_solver, images
from train.setup import Setup
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
    check_solver(config.solver, config.nfe)
    _check_batch(config.batch_size, config.accumulate)
    if not config.resume:
        check_free(config.run_folder, "go on with --resume, or choose another --out")
    initial, setup = _initial(config), setups.build(config)
    config, data = setup.config, setup.images
    model = setups.network(config, data.shape, setup.classes)
    nnx.update(model, initial)
    print(f"{data.name}: {len(data):,} images of {data.shape} from {data.location}")
    where = f"{jax.device_count()} device(s), {jax.devices()[0].device_kind}, of {jax.process_count()} process(es)"
    print(f"{n_parameters(model):,} parameters; {where}")
    runs.begin(config, data, setup.classes, setup.base, setup.inputs.coupling)
    # Signals are noted until all is on disk.
    with _Signals() as stop, Checkpoints(config.run_folder, config.keep_last, config.keep_every) as saved:
        _Training(setup, model, saved).run(stop)
    print(f"run: {config.run_folder}")
    return stop.asked


def _initial(config: Config) -> nnx.State:
    """The parameters to begin with in the place of random ones: those of --init-from before the first checkpoint, and
    otherwise none."""
    if config.init_from is None:
        return nnx.State({})
    if config.resume:
        with Checkpoints(config.run_folder) as saved:
            if saved.steps:
                return nnx.State({})
    return flow.load(config.init_from).parameters


def _check_batch(batch_size: int, accumulate: int) -> None:
    """Raise InputError unless every part of a batch can be cut evenly over the devices."""
    n, part = jax.device_count(), batch_size // accumulate
    check(
        part % n == 0,
        f"--batch-size {batch_size} in {accumulate} part(s) gives {part} images at a time, which {n} devices cannot "
        "share evenly.",
    )


class _Training:
    """A training in progress: its state, the compiled programs that advance and show it, and its log."""

    def __init__(self, setup: Setup, model: UNet, saved: Checkpoints):
        self.config, self.setup, self.saved = setup.config, setup, saved
        self.structure, parameters = nnx.split(model)
        self.mesh = sharding.mesh()
        state = steps.begin(self.config, parameters, setup.inputs.coupling.begin())
        places, everywhere = sharding.of_state(self.mesh, state, self.config.fsdp), sharding.replicated(self.mesh)
        self.inputs = jax.device_put(setup.inputs, everywhere)
        step = steps.make_step(self.config, self.structure)
        step, fast = step if self.config.unroll == 1 else steps.unrolled(step), convolution_options()
        outputs = (places, everywhere)
        self.advance = jax.jit(step, donate_argnums=0, out_shardings=outputs, compiler_options=fast)
        self.copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=places)
        self.cost = jax.jit(steps.make_cost(self.config), out_shardings=everywhere)
        static = ("structure", "solver", "nfe")
        self.images = jax.jit(images, static_argnames=static, out_shardings=everywhere, compiler_options=fast)
        self.noise = _fixed_noise(self.config, self.inputs)
        self._begin(state, places)

    def _begin(self, state: State, places: Any) -> None:
        """Take up the newest checkpoint of a run that is resumed, and else the state before the first step."""
        self.seen: list[dict[str, Any]] = []  # what was computed since the last line of the log
        mark: Mark | None = Mark()
        if self.saved.steps and self.config.resume:
            self.state, numbers = self.saved.load(abstract(state, places))
            mark, self.seen = Mark(**numbers["journal"]) if numbers else None, numbers.get("seen", [])
            print(f"resuming after step {int(self.state.step)}")
        else:
            self.state = jax.device_put(state, places)
        self.at = int(self.state.step)
        if self.at >= self.config.steps:
            print(f"nothing to do: --steps {self.config.steps} are made. Give more to go on.")
        self.log = Log(self.config.run_folder, self.config.batch_size, self.at, self.config.steps, mark)

    def run(self, stop: "_Signals") -> None:
        """All steps, or as many as are made until a signal."""
        config, stopped = self.config, False
        while self.at < config.steps and not stopped:
            self.state, values = self.advance(self.state, self.inputs, *self._batch())
            self.seen.append(values)
            self.at += config.unroll
            last = self.at == config.steps
            if self.at % config.log_every == 0 or last:
                self._write_line()
            if self.at % config.save_every == 0 or last:
                self._save()
            if self.at % config.sample_every == 0 or last:
                self._draw()
            stopped = stop.agreed(self.at % config.log_every == 0)
        if stopped:
            self._save()
            print(f"stopped after step {self.at}; go on with: python -m train --out {config.run_folder} --resume")
        self.log.close()

    def _batch(self) -> tuple[jax.Array, jax.Array | None]:
        """Which images the next steps take, and which draw goes to which of them where these are assigned."""
        config, n = self.config, len(self.setup.images)
        taken = [indices(config.seed, self.at + i, n, config.batch_size) for i in range(config.unroll)]
        index = sharding.spread(taken[0] if config.unroll == 1 else np.stack(taken), self.mesh)
        if not self.inputs.coupling.assigned:
            return index, None
        cost = np.asarray(self.cost(self.inputs, self.state.memory, jnp.array(self.at), index))
        return index, sharding.spread(assign(cost), self.mesh)

    def _write_line(self) -> None:
        _check_finite(self.state, self.config.run_folder)
        self.log.log(self.at, _means(self.seen))
        self.seen = []

    def _save(self) -> None:
        """Save the state, if the next step, made on a copy, finds it sound."""
        after, _ = self.advance(self.copy(self.state), self.inputs, *self._batch())
        _check_finite(after, self.config.run_folder)
        seen = [_numbers(values) for values in self.seen]
        self.saved.save(self.at, self.state, {"journal": self.log.mark._asdict(), "seen": seen})

    def _draw(self) -> None:
        """A grid of images, always from the same noise, where a point is an image."""
        config, classes = self.config, self.setup.classes
        if not is_image(self.setup.images.shape):
            return
        labels = jnp.arange(config.n_samples, dtype=jnp.int32) % classes if classes else None
        average, space = self.state.average, self.inputs.data.space
        grid = self.images(self.structure, average, space, self.noise, labels, config.solver, config.nfe).x
        self.log.picture(self.at, _write_grid(config.run_folder / f"samples-{self.at:07d}.png", np.asarray(grid)))
        self.log.resume_clock()


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(np.mean(np.asarray(value))) for name, value in values.items()}


def _means(seen: list[dict[str, Any]]) -> dict[str, float]:
    each = [_numbers(values) for values in seen]
    return {name: float(np.mean([numbers[name] for numbers in each])) for name in seen[0]}


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
