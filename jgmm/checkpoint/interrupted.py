"""An interrupted fit on disk: everything `--resume` goes on from, in RUN/progress.

    options.json     the options of the run
    pca/             the fitted principal components, and spectrum.json
    codes-P.bin      codes of process P that are read from disk in every pass
    basis/           the rotations of a basis that was learned, and turns.json
    state-N/         the arrays of the EM state and numbers.json; the newest is kept

Every folder is written under another name and renamed once it is whole, so that a process killed at any moment leaves a
whole state behind. Arrays and JSON have digests, which are checked when they are read.
"""

import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jgmm.checkpoint.arrays import digest, load_arrays, save_arrays
from jgmm.checkpoint.files import PROGRESS, discard, faults, read_json, whole, write_json
from jgmm.checkpoint.journal import Mark
from jgmm.checkpoint.structure import abstract_gmm
from jgmm.covariance.base import Family
from jgmm.covariance.prior import Prior
from jgmm.em.loop import EMState
from jgmm.encoder.pca import PCA, Spectrum
from jgmm.errors import check
from jgmm.mixture import GMM
from jgmm.numerics.processes import to_host
from jgmm.numerics.sharding import free_axes

# Saving may take this share of the time of a fit.
SHARE = 0.05
# Versions of this format wrote no seals.
FORMAT = 1
OPTIONS, ARRAYS, NUMBERS = "options.json", "arrays", "numbers.json"
SPECTRUM, TURNS = "spectrum.json", "turns.json"


class InterruptedFit:
    """Saves the state of a fit in a run folder, and reads it back."""

    def __init__(self, run: Path):
        self.folder = run.absolute() / PROGRESS
        self.writes = jax.process_index() == 0
        with faults(f"write to {run}"):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.saved_at, self.cost = -np.inf, 0.0
        if not self.writes:
            return
        for left in self.folder.glob(".partial-*"):
            discard(left)

    @property
    def scratch(self) -> Path:
        """Where the codes of this process go that are read in every pass."""
        return self.folder / f"codes-{jax.process_index()}.bin"

    def save_options(self, options: dict[str, Any], data_sha256: str) -> None:
        """Keep the options of the run, and the digest of its data."""
        if self.writes:
            write_json(self.folder / OPTIONS, {"format": FORMAT, "options": options, "data": {"sha256": data_sha256}})

    def save_pca(self, pca: PCA, spectrum: Spectrum) -> None:
        """Keep the fitted principal components."""
        report = asdict(spectrum) | {"variances": spectrum.variances.tolist()}
        self._save("pca", SPECTRUM, pca, report | {"shape": list(pca.components.shape)})

    def load_pca(self, dtype: Any) -> tuple[PCA, Spectrum] | None:
        """The principal components kept, if there are any. Raises InputError if they are damaged."""
        if not (self.folder / "pca").exists():
            return None
        report = read_json(self.folder / "pca" / SPECTRUM)
        sha256, (m, p) = report.pop("arrays_sha256"), report.pop("shape")
        spectrum = Spectrum(**(report | {"variances": np.array(report["variances"])}))
        target = jax.eval_shape(
            lambda: PCA(jnp.zeros(p, dtype), jnp.zeros((m, p), dtype), jnp.zeros(m, dtype), spectrum.n_codes)
        )
        return self._load("pca", sha256, target), spectrum

    def save_turns(self, turns: np.ndarray) -> None:
        """Keep the rotations of a basis that was learned."""
        self._save("basis", TURNS, {"turns": jnp.asarray(turns)}, {"shape": list(turns.shape)})

    def load_turns(self, dtype: Any) -> np.ndarray | None:
        """The rotations kept, if there are any. Raises InputError if they are damaged."""
        if not (self.folder / "basis").exists():
            return None
        report = read_json(self.folder / "basis" / TURNS)
        target = {"turns": jax.ShapeDtypeStruct(tuple(report["shape"]), dtype)}
        return np.asarray(self._load("basis", report["arrays_sha256"], target)["turns"])

    def save(self, state: EMState, mark: Mark, at_once: bool = False) -> None:
        """Keep the state and how far the journal had come; unless `at_once`, not if the last save is so recent that
        saving would take more than its SHARE of the time."""
        start = time.monotonic()
        if not self.writes:
            return
        if not at_once and start - self.saved_at < self.cost / SHARE:
            return
        arrays: dict[str, Any] = {"gmm": state.gmm} | ({"best": state.best.gmm} if state.best else {})
        # On a mesh bounds belong to its parts, and are found anew.
        bounds = None if free_axes() else state.bounds
        arrays |= {} if bounds is None else {"bounds": bounds}
        arrays |= {"prior": vars(state.prior)}
        older = self._states()
        name = f"state-{_number(older[-1]) + 1 if older else 1}"
        numbers = numbers_of(state) | {"bounded": bounds is not None, "journal": mark._asdict()}
        numbers |= {"prior": {name: list(jnp.shape(value)) for name, value in vars(state.prior).items()}}
        self._save(name, NUMBERS, arrays, numbers)
        for folder in older:
            discard(folder)
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - start

    def load(
        self, k: int, shape: tuple[int, ...], family: Family, dtype: Any, prior: Prior
    ) -> tuple[EMState, Mark] | None:
        """The last state kept, if there is one, of a fit to rows of the given shape, and how far the journal had come.
        `prior` is that of states of a version which did not keep theirs.

        Raises:
            InputError: If it is damaged.
        """
        states = self._states()
        if not states:
            return None
        numbers = read_json(states[-1] / NUMBERS)
        sha256, mark = numbers.pop("arrays_sha256"), Mark(**numbers.pop("journal"))
        n, d = shape
        gmm = abstract_gmm(k, d, family, dtype)
        target: dict[str, Any] = {"gmm": gmm} | ({"best": gmm} if numbers["best"] else {})
        target |= {"bounds": jax.ShapeDtypeStruct((k, n), dtype)} if numbers.pop("bounded") else {}
        shapes = numbers.pop("prior", {})
        kept = {name: jax.ShapeDtypeStruct(tuple(of), dtype) for name, of in shapes.items()}
        target |= {"prior": kept} if kept else {}
        arrays = self._load(states[-1].name, sha256, target)
        prior = Prior(**arrays["prior"]) if kept else prior
        best = state_of(arrays["best"], numbers["best"], prior) if numbers["best"] else None
        bounds = None if free_axes() else arrays.get("bounds")
        return replace(state_of(arrays["gmm"], numbers, prior), bounds=bounds, best=best), mark

    def remove(self) -> None:
        """The fit is finished: forget how it got there."""
        if self.writes:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("state-*"), key=_number)

    def _save(self, name: str, described: str, arrays: Any, numbers: dict[str, Any]) -> None:
        if not self.writes:
            return
        arrays = jax.tree.map(to_host, arrays) if free_axes() else arrays
        with whole(self.folder / name) as temporary:
            temporary.mkdir()
            save_arrays(temporary / ARRAYS, arrays)
            write_json(temporary / described, numbers | {"arrays_sha256": digest(arrays)})

    def _load(self, name: str, sha256: str, target: Any) -> Any:
        arrays = load_arrays(self.folder / name / ARRAYS, target)
        check(digest(arrays) == sha256, f"{self.folder / name} is damaged: its arrays are not those that were saved.")
        return arrays


def kept_options(run: Path) -> dict[str, Any] | None:
    """What `save_options` kept in a run folder, or None if there is none. Raises InputError if it is damaged."""
    path = run / PROGRESS / OPTIONS
    if not path.exists():
        return None
    content = read_json(path, sealed_from=FORMAT)
    check("format" in content, f"the fit in {run} was interrupted in an earlier version of jgmm: begin it anew.")
    return content


def _number(state: Path) -> int:
    return int(state.name.rpartition("-")[2])


def numbers_of(state: EMState) -> dict[str, Any]:
    """What a state is besides arrays, as JSON."""
    return {
        "restart": state.restart,
        "history": state.history,
        "log_likelihoods": state.log_likelihoods,
        "counts": None if state.counts is None else state.counts.tolist(),
        "pairs": state.pairs,
        "dropped": state.dropped,
        "revived": state.revived,
        "settled": state.settled,
        "converged": state.converged,
        "last": state.last,
        "best": numbers_of(state.best) if state.best else None,
    }


def state_of(gmm: GMM, numbers: dict[str, Any], prior: Prior) -> EMState:
    """The state of a mixture, these numbers and a prior, without bounds and the best before it."""
    counts = None if numbers["counts"] is None else np.array(numbers["counts"], gmm.means.dtype)
    return EMState(gmm, **(numbers | {"counts": counts, "best": None}), prior=prior)
