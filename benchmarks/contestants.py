"""One library fits one case, in a process of its own: python contestants.py NAME FOLDER ITERATIONS REG_COVAR.

FOLDER holds x.npy [N, D] float32 and start.npz: weights [K], means [K, D], covariances [K, D, D] or [K, D], float64.
Writes NAME.npz with the final parameters, and prints one JSON line: the seconds of each iteration, or their mean where
a library does not let itself be watched, and the memory of the process before and at its peak, in GiB.
"""

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

Parameters = tuple[np.ndarray, np.ndarray, np.ndarray]
# Seconds of the iterations; of all of them with compiling; and what makes the final parameters, which is outside the
# clock and the memory.
Result = tuple[list[float], float, Callable[[], Parameters]]


def jgmm(x: np.ndarray, start: Parameters, iterations: int, reg_covar: float) -> Result:
    import jax
    import jax.numpy as jnp

    from jgmm.covariance.diag import Diag
    from jgmm.covariance.full import Full
    from jgmm.covariance.prior import Floor
    from jgmm.em.loop import run_em
    from jgmm.mixture import GMM

    data = jax.device_put(x)
    weights, means, variances = (jnp.asarray(p, x.dtype) for p in start)
    full = variances.ndim == 3
    first = GMM(jnp.log(weights), means, Full.from_dense(variances) if full else Diag(variances))
    del variances
    ticks = [0.0]

    def go_on(n: int) -> GMM:
        ticks[:] = []
        state = run_em(
            jax.random.key(0),
            data,
            k=first.k,
            covariance_type="full" if full else "diag",
            start=first,
            max_iter=n,
            tol=0.0,
            floor=Floor(absolute=reg_covar, relative=0.0),
            callback=lambda state: ticks.append(time.perf_counter()),
        )
        return state.gmm

    begun = time.perf_counter()
    go_on(iterations)  # compiles, or takes programs from the cache
    whole = time.perf_counter() - begun
    gmm = go_on(iterations)

    def final() -> Parameters:
        covariances = gmm.covariance.dense() if full else gmm.covariance.variance()
        return np.exp(gmm.log_weights), np.asarray(gmm.means), np.asarray(covariances)

    return list(np.diff(ticks)), whole, final


def scikit_learn_start(start: Parameters, dtype: np.dtype) -> Parameters:
    """Weights, means and precisions."""
    weights, means, covariances = start
    precisions = np.linalg.inv(covariances) if covariances.ndim == 3 else 1 / covariances
    return (weights / weights.sum()).astype(dtype), means.astype(dtype), precisions.astype(dtype)


def scikit_learn(
    x: np.ndarray,
    start: Parameters,
    iterations: int,
    reg_covar: float,
    watch: Callable[[float], None] = lambda log_likelihood: None,
) -> Result:
    """`watch` is told the mean log-likelihood before every iteration."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    class Timed(GaussianMixture):
        def _e_step(self, X, xp=None):
            self.begun = time.perf_counter()
            log_likelihood, log_resp = super()._e_step(X, xp=xp)
            watch(float(log_likelihood))
            return log_likelihood, log_resp

        def _m_step(self, X, log_resp, xp=None):
            super()._m_step(X, log_resp, xp=xp)
            self.seconds.append(time.perf_counter() - self.begun)

    weights, means, precisions = scikit_learn_start(start, x.dtype)
    model = Timed(
        len(means),
        covariance_type="full" if precisions.ndim == 3 else "diag",
        weights_init=weights,
        means_init=means,
        precisions_init=precisions,
        max_iter=iterations,
        tol=0,
        reg_covar=reg_covar,
    )
    model.seconds = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x)
    return model.seconds, sum(model.seconds), lambda: (model.weights_, model.means_, model.covariances_)


def scikit_learn_float64(x: np.ndarray, start: Parameters, iterations: int, reg_covar: float) -> Result:
    return scikit_learn(x.astype(np.float64), start, iterations, reg_covar)


def scikit_learn_torch(x: np.ndarray, start: Parameters, iterations: int, reg_covar: float) -> Result:
    """scikit-learn on torch tensors on the GPU."""
    import sklearn
    import torch
    from sklearn.mixture import GaussianMixture

    weights, means, precisions = (torch.as_tensor(p, device="cuda") for p in scikit_learn_start(start, x.dtype))
    data = torch.as_tensor(x, device="cuda")

    def run(n: int) -> tuple[float, GaussianMixture]:
        model = GaussianMixture(
            len(means),
            covariance_type="full" if precisions.ndim == 3 else "diag",
            weights_init=weights,
            means_init=means,
            precisions_init=precisions,
            init_params="random_from_data",
            max_iter=n,
            tol=0,
            reg_covar=reg_covar,
        )
        torch.cuda.synchronize()
        begun = time.perf_counter()
        model.fit(data)
        torch.cuda.synchronize()
        return time.perf_counter() - begun, model

    with sklearn.config_context(array_api_dispatch=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(1)
        once, _ = run(1)
        seconds, _ = run(1 + iterations)  # the difference of two lengths is iterations alone
        _, model = run(iterations)

    def final() -> Parameters:
        return model.weights_.cpu().numpy(), model.means_.cpu().numpy(), model.covariances_.cpu().numpy()

    return [(seconds - once) / iterations] * iterations, seconds - once, final


def gmmx(x: np.ndarray, start: Parameters, iterations: int, reg_covar: float) -> Result:
    import jax
    from gmmx import EMFitter, GaussianMixtureModelJax

    weights, means, covariances = (p.astype(x.dtype) for p in start)
    first = GaussianMixtureModelJax.from_squeezed(
        means, covariances, weights / weights.sum(), "full" if covariances.ndim == 3 else "diag"
    )
    fitter, data = EMFitter(max_iter=iterations, tol=0.0, reg_covar=reg_covar), jax.device_put(x)
    compiling = time.perf_counter()
    compiled = EMFitter.fit.lower(fitter, data, first).compile()
    begun = time.perf_counter()
    result = jax.block_until_ready(compiled(fitter, data, first))
    done = time.perf_counter()
    gmm = result.gmm
    seconds = [(done - begun) / iterations] * iterations
    return seconds, done - compiling, lambda: (gmm.weights_numpy, gmm.means_numpy, gmm.covariances.values_numpy)


def torchgmm(x: np.ndarray, start: Parameters, iterations: int, reg_covar: float) -> Result:
    """Full batches by its own training module, one EM iteration an epoch."""
    import logging

    import torch
    from pytorch_lightning import Callback
    from torchgmm.base.data import DataLoader, collate_tensor, dataset_from_tensors
    from torchgmm.bayes import GaussianMixture
    from torchgmm.bayes.gmm.lightning_module import GaussianMixtureLightningModule
    from torchgmm.bayes.gmm.model import GaussianMixtureModel, GaussianMixtureModelConfig

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    weights, means, covariances = start
    full = covariances.ndim == 3
    model = GaussianMixtureModel(GaussianMixtureModelConfig(*means.shape, "full" if full else "diag"))
    # An upper factor U with Σ⁻¹ = U Uᵀ.
    precisions = np.linalg.inv(np.linalg.cholesky(covariances)).swapaxes(1, 2) if full else covariances**-0.5
    model.component_probs.copy_(torch.as_tensor(weights / weights.sum()))
    model.means.copy_(torch.as_tensor(means))
    model.precisions_cholesky.copy_(torch.as_tensor(precisions))
    ticks = []

    class Clock(Callback):
        def on_train_epoch_start(self, *_):
            ticks.append(time.perf_counter())

        def on_train_end(self, *_):
            ticks.append(time.perf_counter())

    module = GaussianMixtureLightningModule(
        model, convergence_tolerance=0, covariance_regularization=reg_covar, is_batch_training=False
    )
    loader = DataLoader(dataset_from_tensors(torch.as_tensor(x)), batch_size=len(x), collate_fn=collate_tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = GaussianMixture(len(means), trainer_params={"callbacks": [Clock()]})
        estimator.trainer(max_epochs=iterations, enable_progress_bar=False).fit(module, loader)

    def final() -> Parameters:
        u = model.precisions_cholesky.cpu().numpy().astype(np.float64)
        covariances = np.linalg.inv(u @ u.swapaxes(1, 2)) if full else u**-2
        return model.component_probs.cpu().numpy(), model.means.cpu().numpy(), covariances

    return list(np.diff(ticks)), ticks[-1] - ticks[0], final


CONTESTANTS: dict[str, Callable[[np.ndarray, Parameters, int, float], Result]] = {
    "jgmm": jgmm,
    "scikit-learn float64": scikit_learn_float64,
    "scikit-learn float32": scikit_learn,
    "scikit-learn on torch": scikit_learn_torch,
    "gmmx": gmmx,
    "torchgmm": torchgmm,
}


def peak() -> float:
    """The largest resident memory so far, GiB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands the peak of a parent down through getrusage
        return next(int(s.split()[1]) for s in status.read_text().splitlines() if s.startswith("VmHWM")) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main(name: str, folder: Path, iterations: int, reg_covar: float) -> None:
    x = np.load(folder / "x.npy", mmap_mode="r")  # on pages of its own, which JAX can use without a copy
    x.sum()
    with np.load(folder / "start.npz") as file:
        start = (file["weights"], file["means"], file["covariances"])
    before = peak()
    seconds, whole, final = CONTESTANTS[name](x, start, iterations, reg_covar)
    after = peak()
    weights, means, covariances = final()
    np.savez(folder / f"{name}.npz", weights=weights, means=means, covariances=covariances)
    found = {"seconds": list(map(float, seconds)), "whole": float(whole), "gib_before": before, "gib_peak": after}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
