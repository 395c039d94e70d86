"""EM iterations of jgmm beside other libraries: same data, same start, same iterations, one judge.

    python benchmarks/em.py --data-dir DIR [--cases full-300 diag-3072 ...] [--peers .venv-bench/bin/python]

A case FAMILY-D is that covariance family on the first D whitened principal components of CIFAR-10; FAMILY-D-N takes the
first N images. jgmm fits `--start` iterations, and from there every library does `--iterations` more, in a process of
its own. The final mixtures are judged by one log-likelihood in float64. Compilation, loading and the first import are
outside the clock of an iteration, and jgmm's compiler outside its memory: it finds its programs in JAX's compilation
cache, as every run of the commands but the first does. Prints a table of the median iterations and of whole runs, from
the start to the same likelihood with compiling and an empty cache, and writes a JSON file with the seconds of every
iteration: the first of jgmm, which knows no bounds yet, takes longer.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from cifar_codes import codes, fit, load_pixels
from contestants import CONTESTANTS, Parameters

from jgmm.mixture import GMM

# A library that uses no processor for so many seconds stands still (seen of gmmx, on two cores) and is started again.
PATIENCE, ATTEMPTS, STALLED = 30, 4, -1000
OURS = ("jgmm", "scikit-learn float64", "scikit-learn float32")  # those of this environment


@dataclass(frozen=True)
class Options:
    data_dir: Path | None = None
    """Folder with CIFAR-10; without it the embedded photographs stand in."""
    cases: tuple[str, ...] = ("full-300", "full-64", "diag-300", "diag-3072")
    k: int = 100
    start: int = 10
    iterations: int = 10
    reg_covar: float = 1e-2
    """Added to every variance by every library. Below D eps, the components of fewer images than features depend on
    rounding in float32, and likelihoods cannot be compared."""
    libraries: tuple[str, ...] = tuple(CONTESTANTS)
    peers: Path | None = None
    """Python of the environment with benchmarks/peers.txt; without it only scikit-learn is compared."""
    memory: float = 0.9
    """Share of this machine's memory that a library may take before it counts as out of memory."""
    out: Path = Path("bench.json")


def main(options: Options) -> None:
    name, pixels = load_pixels(options.data_dir)
    report: dict[str, Any] = {"machine": machine(), "data": name, "cases": {}}
    print(f"{describe(report['machine'])}\n{name}, K={options.k}, {options.iterations} iterations\n")
    print("| case | library | time of an iteration | whole run, compiling included | peak memory, GiB | nats |")
    print("|---|---|---|---|---|---|")
    for case in options.cases:
        report["cases"][case] = compare(case, pixels, options)
        options.out.write_text(json.dumps(report, indent=1))


def compare(case: str, pixels: np.ndarray, options: Options) -> dict[str, Any]:
    """Run one case and print its rows."""
    family, d, *n = case.split("-")
    x, metric = codes(pixels[: int(n[0]) if n else None], int(d))
    begin = fit(x, metric, family, options.k, options.start, options.reg_covar)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "x.npy", x)
        write_start(folder / "start.npz", begin.gmm)
        for library in options.libraries:
            if library not in OURS and options.peers is None:
                continue
            if library == "scikit-learn on torch" and jax.default_backend() != "gpu":
                continue
            python = sys.executable if library in OURS else str(options.peers)
            row = contest(python, library, folder, options)
            if "seconds" in row:
                with np.load(folder / f"{library}.npz") as final:
                    row["log_likelihood"] = judge(x, (final["weights"], final["means"], final["covariances"]))
            rows[library] = row
            print(line(case, len(x), library, row, rows), flush=True)
    return {"n": len(x), "d": int(d), "pairs_at_start": begin.pairs, "libraries": rows}


def write_start(path: Path, gmm: GMM) -> None:
    """The starting mixture in float64: what every library begins with, up to its own dtype."""
    leaf = np.asarray(jax.tree.leaves(gmm.covariance)[0], np.float64)
    covariances = leaf @ leaf.swapaxes(1, 2) if leaf.ndim == 3 else leaf
    weights = np.exp(np.asarray(gmm.log_weights, np.float64))
    np.savez(path, weights=weights / weights.sum(), means=np.asarray(gmm.means), covariances=covariances)


def contest(python: str, library: str, folder: Path, options: Options) -> dict[str, Any]:
    """Let a library fit in its own process; what it printed, or why it failed."""
    limit = int(options.memory * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    script = Path(__file__).with_name("contestants.py")
    command = [python, str(script), library, str(folder), str(options.iterations), str(options.reg_covar)]
    if jax.default_backend() == "cpu":  # elsewhere drivers map more memory than they use
        command = ["prlimit", f"--data={limit}", *command]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "SCIPY_ARRAY_API": "1"}
    if library == "jgmm":
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        cold = run(command, environment)  # fills the cache
    for _ in range(ATTEMPTS):
        code, out, err = run(command, environment)
        if code == 0:
            found = json.loads(out.splitlines()[-1])
            if library == "jgmm":
                found["whole"] = json.loads(cold[1].splitlines()[-1])["whole"]
            return found
        if any(word in err for word in ("RESOURCE_EXHAUSTED", "MemoryError", "bad_alloc", "allocate")):
            return {"failed": f"more than {limit / 2**30:.0f} GiB needed"}
        if code != STALLED:
            return {"failed": (err.strip().splitlines() or [f"exit {code}"])[-1][:200]}
    return {"failed": f"stood still {ATTEMPTS} times"}


def run(command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a command; it is killed, code STALLED, when it stops using the processor."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        used = -1.0
        while True:
            try:
                code = process.wait(PATIENCE)
                break
            except subprocess.TimeoutExpired:
                before, used = used, processor_seconds(process.pid)
                if used == before:
                    process.kill()
                    process.wait()
                    code = STALLED
                    break
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def processor_seconds(pid: int) -> float:
    """Processor time of a running process; ever growing where it cannot be told."""
    status = Path(f"/proc/{pid}/stat")
    if not status.exists():
        return time.monotonic()
    fields = status.read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) // os.sysconf("SC_CLK_TCK")


def judge(x: np.ndarray, parameters: Parameters) -> float:
    """Mean log-likelihood, nats a row, in float64."""
    weights, means, covariances = (np.asarray(p, np.float64) for p in parameters)
    n, d = x.shape
    x = x.astype(np.float64)
    distances = np.empty((len(weights), n))
    if covariances.ndim == 3:
        log_dets = np.empty(len(weights))
        for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
            factor = np.linalg.inv(np.linalg.cholesky(covariance))
            log_dets[k] = -2 * np.log(np.diag(factor)).sum()
            distances[k] = (((x - mean) @ factor.T) ** 2).sum(axis=1)
    else:  # the terms are of the size of their sum: expanding the square costs float64 two digits at most
        log_dets, precisions = np.log(covariances).sum(axis=1), 1 / covariances
        constant = (means**2 * precisions).sum(axis=1)
        distances[:] = precisions @ (x * x).T - 2 * (means * precisions) @ x.T + constant[:, None]
    constants = np.log(weights / weights.sum()) - 0.5 * (d * np.log(2 * np.pi) + log_dets)
    log_p = constants[:, None] - 0.5 * distances
    return float(np.logaddexp.reduce(log_p, axis=0).mean())


def machine() -> dict[str, Any]:
    """What ran this, with its rate of float32 matrix products."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [text.split(":")[1].strip() for text in info.read_text().splitlines() if text.startswith("model name")]
        model = names[0] if names else model
    a = np.random.default_rng(0).standard_normal((4096, 4096), np.float32)
    on_device, product = jnp.asarray(a), jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": f"{jax.default_backend()}: {jax.devices()[0].device_kind}",
        "versions": {"jax": jax.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "gflops_xla": 2e-9 * 4096**3 / fastest(lambda: jax.block_until_ready(product(on_device))),
        "gflops_numpy": 2e-9 * 4096**3 / fastest(lambda: a @ a),
    }


def fastest(f: Any, times: int = 5) -> float:
    """Seconds of the fastest of several calls after one that warms up."""
    f()
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def describe(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores; {machine['device']}; float32 products of 4096 x 4096: "
        f"{machine['gflops_xla']:.0f} GFLOP/s by XLA, {machine['gflops_numpy']:.0f} by NumPy"
    )


def line(case: str, n: int, library: str, row: dict[str, Any], rows: dict[str, Any]) -> str:
    """A row of the table: times as multiples of jgmm's on a CPU, in milliseconds on an accelerator."""
    name = f"{case.split('-')[0]}, D={case.split('-')[1]}, N={n:,}"
    if "failed" in row:
        return f"| {name} | {library} | {row['failed']} | | | |"
    ours = rows.get("jgmm", row)
    ratio = np.median(row["seconds"]) / np.median(ours["seconds"])
    shown = f"{ratio:.2f} x"
    if jax.default_backend() != "cpu":
        shown += f" ({1000 * np.median(row['seconds']):.1f} ms)"
    whole = f"{row['whole'] / ours['whole']:.2f} x"
    return f"| {name} | {library} | {shown} | {whole} | {row['gib_peak']:.2f} | {row['log_likelihood']:.6f} |"


if __name__ == "__main__":
    main(tyro.cli(Options))
