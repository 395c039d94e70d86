"""An interrupted fit on disk: everything `--resume` goes on from, in RUN/progress.

    options.json      the options of the run
    rotation/         the fitted PCA
    spectrum.json     its spectrum, written once rotation/ is whole
    state/ITERATION/  the EM state, the last one kept

Orbax writes a folder under a temporary name and renames it when it is complete, so that a process killed at any
moment leaves a whole state behind.
"""

import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jgmm.checkpoint.arrays import load_arrays, on_default_device, save_arrays
from jgmm.checkpoint.files import PROGRESS, write_json
from jgmm.checkpoint.structure import abstract_gmm
from jgmm.covariance.base import Family
from jgmm.em.loop import EMState
from jgmm.encoder.pca import PCA, Spectrum
from jgmm.mixture import GMM

PCA_FOLDER = "rotation"
# Saving may take this share of the time of a fit.
SHARE = 0.05


class InterruptedFit:
    """Saves the state of a fit in a run folder, and reads it back."""

    def __init__(self, run: Path):
        import orbax.checkpoint as ocp

        self.folder = run.absolute() / PROGRESS
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, cleanup_tmp_directories=True, enable_async_checkpointing=False
        )
        self.manager = ocp.CheckpointManager(self.folder / "state", options=options)
        self.saved_at, self.cost = -np.inf, 0.0

    def save_pca(self, pca: PCA, spectrum: Spectrum) -> None:
        """Keep the fitted principal components."""
        save_arrays(self.folder / PCA_FOLDER, pca)
        report = asdict(spectrum) | {"variances": spectrum.variances.tolist()}
        write_json(self.folder / "spectrum.json", report | {"shape": list(pca.components.shape)})

    def load_pca(self, dtype: Any) -> tuple[PCA, Spectrum] | None:
        """The principal components kept, if there are any."""
        path = self.folder / "spectrum.json"
        if not path.exists():
            return None
        report = json.loads(path.read_text())
        m, p = report.pop("shape")
        spectrum = Spectrum(**(report | {"variances": np.array(report["variances"])}))
        target = jax.eval_shape(
            lambda: PCA(jnp.zeros(p, dtype), jnp.zeros((m, p), dtype), jnp.zeros(m, dtype), spectrum.n_codes)
        )
        return load_arrays(self.folder / PCA_FOLDER, target), spectrum

    def save(self, state: EMState) -> None:
        """Keep the state, unless the last save is so recent that saving would take more than its SHARE of the time."""
        import orbax.checkpoint as ocp

        start = time.monotonic()
        if start - self.saved_at < self.cost / SHARE:
            return
        arrays: dict[str, Any] = {"gmm": state.gmm} | ({"best": state.best.gmm} if state.best else {})
        arrays |= {} if state.bounds is None else {"bounds": state.bounds}
        numbers = _numbers(state) | {"bounded": state.bounds is not None}
        self.manager.save(
            (self.manager.latest_step() or 0) + 1,
            args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), numbers=ocp.args.JsonSave(numbers)),
        )
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - start

    def load(self, k: int, shape: tuple[int, ...], family: Family, dtype: Any) -> EMState | None:
        """The last state kept, if there is one, of a fit to rows of the given shape."""
        import orbax.checkpoint as ocp

        step = self.manager.latest_step()
        if step is None:
            return None
        restore = ocp.args.Composite(numbers=ocp.args.JsonRestore())
        numbers = self.manager.restore(step, args=restore)["numbers"]
        n, d = shape
        gmm = abstract_gmm(k, d, family, dtype)
        target: dict[str, Any] = {"gmm": gmm} | ({"best": gmm} if numbers["best"] else {})
        target |= {"bounds": jax.ShapeDtypeStruct((k, n), dtype)} if numbers.pop("bounded") else {}
        target = on_default_device(target)
        arrays = self.manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(target)))
        arrays = arrays["arrays"]
        best = _state(arrays["best"], numbers["best"]) if numbers["best"] else None
        return replace(_state(arrays["gmm"], numbers), bounds=arrays.get("bounds"), best=best)

    def remove(self) -> None:
        """The fit is finished: forget how it got there."""
        self.manager.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _numbers(state: EMState) -> dict[str, Any]:
    return {
        "restart": state.restart,
        "history": state.history,
        "log_likelihoods": state.log_likelihoods,
        "counts": None if state.counts is None else state.counts.tolist(),
        "pairs": state.pairs,
        "dropped": state.dropped,
        "revived": state.revived,
        "converged": state.converged,
        "best": _numbers(state.best) if state.best else None,
    }


def _state(gmm: GMM, numbers: dict[str, Any]) -> EMState:
    counts = None if numbers["counts"] is None else np.array(numbers["counts"], gmm.means.dtype)
    return EMState(gmm, **(numbers | {"counts": counts, "best": None}))
