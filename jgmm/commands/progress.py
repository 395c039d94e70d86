"""What a fit tells its user while it runs: a bar on a terminal, a line an iteration elsewhere, and metrics.jsonl."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
from tqdm import tqdm

from jgmm.checkpoint.journal import Journal, Mark
from jgmm.commands.codes import Codes
from jgmm.em.loop import EMState


class CompileClock:
    """Counts the seconds that JAX spends tracing and compiling while the clock is entered as a context."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> "CompileClock":
        jax.monitoring.register_event_duration_secs_listener(self._add)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._add)

    def _add(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs


class Progress:
    """Follows a fit as the callback of `run_em`; `resumed` is the state it goes on from, if any, and `mark` how far the
    journal had come then.

    metrics.jsonl, unless its path is None, has a line an iteration: restart, iteration, log_likelihood (mean nats an
    image, pixels in [-1, 1]), objective (the same with the prior), change (of the objective), seconds, compile_seconds,
    smallest (the rows of the smallest component), pairs (responsibilities of an image that took part), dropped (at most
    the sum of the others).
    """

    def __init__(
        self, path: Path | None, max_iter: int, codes: Codes, clock: CompileClock, resumed: EMState | None, mark: Mark
    ):
        self.journal, self.codes, self.clock = Journal(path, mark), codes, clock
        self.seconds: list[float] = []
        self.revived = resumed.revived if resumed else 0
        self.bar = tqdm(total=max_iter, unit="iter", disable=path is None or not sys.stderr.isatty(), leave=True)
        self._tick()

    def __call__(self, state: EMState) -> None:
        elapsed, compiling = time.perf_counter() - self.time, self.clock.seconds - self.compiled
        if not state.history:
            self.say(f"start {state.restart + 1}: {elapsed - compiling:.1f} s, and {compiling:.1f} s compiling")
            self.bar.reset()
            return self._tick()
        self.seconds.append(elapsed - compiling)
        smallest = float(state.counts.min()) if state.counts is not None else 0.0
        objective = [self.codes.nats(value) for value in state.history[-2:]]
        change = objective[1] - objective[0] if len(objective) > 1 else None
        line = {
            "restart": state.restart,
            "iteration": len(state.history),
            "log_likelihood": self.codes.nats(state.log_likelihoods[-1]),
            "objective": objective[-1],
            "change": change,
            "seconds": elapsed - compiling,
            "compile_seconds": compiling,
            "smallest": smallest,
            "pairs": state.pairs,
            "dropped": state.dropped,
        }
        self.journal.write(line)
        shown = "" if change is None else f"{change:+.2e}"
        likelihood = f"{line['log_likelihood']:.4f}"
        if self.bar.disable:
            print(
                f"iteration {line['iteration']:4d}  log-likelihood {likelihood}  change {shown:>9}  "
                f"{line['seconds']:.2f} s",
                flush=True,
            )
        else:
            self.bar.set_postfix_str(f"log-likelihood {likelihood}, change {shown}")
            self.bar.update(len(state.history) - self.bar.n)
        if state.revived > self.revived:
            self.say(f"gave {state.revived - self.revived} component(s) of too few images a new place")
            self.revived = state.revived
        return self._tick()

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        tqdm.write(text)
        sys.stdout.flush()

    def close(self) -> None:
        """End the bar."""
        self.bar.close()

    def _tick(self) -> None:
        self.time, self.compiled = time.perf_counter(), self.clock.seconds


class Stage:
    """Follows EM on what is added to fitted Gaussians, a line an iteration; nats(value) are those of an image."""

    def __init__(self, name: str, nats: Callable[[float], float]):
        self.name, self.nats, self.begun = name, nats, time.perf_counter()

    def __call__(self, iteration: int, log_likelihood: float) -> None:
        seconds = time.perf_counter() - self.begun
        self._say(f"{iteration:4d}  log-likelihood {self.nats(log_likelihood):.4f}  {seconds:.1f} s in all")

    def end(self, iterations: int, converged: bool) -> None:
        """Say so where EM was cut short."""
        if not converged:
            self._say(f"NOT converged after {iterations} iterations")

    def _say(self, text: str) -> None:
        print(f"{self.name:9} {text}", flush=True)


def peak_memory_gib() -> float:
    """The largest resident memory of this process so far, GiB of 2**30 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
