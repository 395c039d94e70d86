"""What a training tells: metrics.jsonl, TensorBoard, a progress bar, and grids of samples."""

import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image, scalar
from tqdm import tqdm

from jgmm.checkpoint.journal import Journal, Mark

METRICS = "metrics.jsonl"


class Log:
    """Writes on the first process only. A line of metrics.jsonl: step, loss and gradient_norm (means since the line
    before), images_per_second, seconds (since the start of this process), ema (the decay of the average), and with
    which parameters the grids are drawn."""

    def __init__(self, folder: Path, batch_size: int, begin: int, steps: int, mark: Mark | None):
        self.batch_size = batch_size
        self.first = jax.process_index() == 0
        self.board = None
        if self.first:
            self.journal = Journal(folder / METRICS, mark)
            # Written here and now: on a full disk the library's own thread would die, and the training wait for it.
            (folder / "tensorboard").mkdir(exist_ok=True)
            self.board = EventsWriter(str(folder / "tensorboard" / "events"))
            # Of steps that are made again TensorBoard forgets the first.
            self._write(Event(wall_time=time.time(), step=begin + 1, session_log=SessionLog(status=SessionLog.START)))
        self.bar = tqdm(total=steps, initial=begin, unit="step", disable=not (self.first and sys.stderr.isatty()))
        self.start = self.since = time.perf_counter()
        self.step = begin

    def log(self, step: int, means: dict[str, float]) -> None:
        """The means of the steps since the last call."""
        now = time.perf_counter()
        speed = (step - self.step) * self.batch_size / (now - self.since)
        self.bar.update(step - self.step)
        self.step, self.since = step, now
        if self.board is None:
            return
        line = {"step": step, **means, "images_per_second": speed, "seconds": now - self.start, "samples": "ema"}
        self.journal.write(line)
        for name, value in line.items():
            if name not in ("step", "samples"):
                self._tell(step, scalar(name, value))
        text = f"loss {means['loss']:.4f}, gradient {means['gradient_norm']:.3f}, {speed:.1f} images/s"
        if self.bar.disable:
            print(f"step {step:7d}  {text}", flush=True)
        else:
            self.bar.set_postfix_str(text)

    def picture(self, step: int, grid: np.ndarray) -> None:
        """A picture [H, W, C] in [0, 1], for TensorBoard."""
        self._tell(step, image("samples", grid, dataformats="HWC"))

    @property
    def mark(self) -> Mark:
        """How far the journal has come; on other processes than the first it is the beginning."""
        return self.journal.mark if self.first else Mark()

    def _tell(self, step: int, summary: Any) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Event) -> None:
        if self.board is not None:
            self.board.write_event(event)
            self.board.flush()

    def resume_clock(self) -> None:
        """Leave out of the speed what was done since the last line."""
        self.since = time.perf_counter()

    def close(self) -> None:
        """End the bar and the board."""
        self.bar.close()
        if self.board is not None:
            self.board.close()
