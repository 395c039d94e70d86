"""`GaussianMixture`: scikit-learn's interface."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp, softmax
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from jgmm.em.engines import Engine, engine_for, in_numpy
from jgmm.em.missing import observed_log_joint
from jgmm.em.small.families import Matrices, arithmetic_of
from jgmm.em.small.loop import as_gmm
from jgmm.em.small.steps import Mixture
from jgmm.em.starts import STARTS
from jgmm.em.stepwise import Stepwise, partial_fit
from jgmm.mixture import GMM, LOG_2PI
from jgmm.registry import COVARIANCES

# About this many log-densities, or features, are taken at a time.
PIECE = 2**20


class GaussianMixture(mixture.GaussianMixture):
    """scikit-learn's GaussianMixture with EM by jgmm: its parameters, attributes, methods, errors and warnings.

    From the same start it comes to the same mixture as scikit-learn's; the same `random_state` gives the same start.
    Small tables are fitted in NumPy, where nothing is compiled, others by JAX on the default device, in float64 or
    float32 as the rows are. What it adds:

        covariance_type   any family of `jgmm.registry.COVARIANCES`, or a class or function as `jgmm.fit_em` takes it
        sample_weight     in `fit`, `fit_predict`, `partial_fit` and `score`; whole numbers are as good as copies
        partial_fit       stepwise EM, a batch of rows at a time (`jgmm.partial_fit`)
        missing           "marginal": NaN is a value that is missing, and rows count by their other features
        gmm_              the fitted mixture as a `jgmm.GMM`, to be sampled, conditioned, saved and differentiated

    Families that scikit-learn does not have keep its form as far as they can: tied ones have no axis of components, and
    where there is no such form at all (low-rank), `gmm_` alone holds the covariances.

    Args:
        missing: "error" or "marginal".

    Other parameters are those of `sklearn.mixture.GaussianMixture`.

    >>> import jgmm
    >>> from sklearn.datasets import load_iris
    >>> x = load_iris().data
    >>> model = jgmm.GaussianMixture(3, random_state=0).fit(x)
    >>> model.predict(x).shape, model.converged_, round(model.score(x), 2)
    ((150,), True, -1.2)
    """

    lower_bound_: float
    lower_bounds_: list[float]
    _gmm: GMM | None = None
    _stepwise: Stepwise | None = None
    _family: Any = None

    _parameter_constraints: dict = {
        **mixture.GaussianMixture._parameter_constraints,
        "covariance_type": [StrOptions({*COVARIANCES, *COVARIANCES.aliases}), callable],
        "missing": [StrOptions({"error", "marginal"})],
    }

    # Parameters are checked by `fit`, as scikit-learn asks.
    def __init__(
        self,
        n_components: Any = 1,
        *,
        covariance_type: Any = "full",
        tol: Any = 1e-3,
        reg_covar: Any = 1e-6,
        max_iter: Any = 100,
        n_init: Any = 1,
        init_params: Any = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: Any = False,
        verbose: Any = 0,
        verbose_interval: Any = 10,
        missing: Any = "error",
    ):
        super().__init__(
            n_components=n_components,
            covariance_type=covariance_type,
            tol=tol,
            reg_covar=reg_covar,
            max_iter=max_iter,
            n_init=n_init,
            init_params=init_params,
            weights_init=weights_init,
            means_init=means_init,
            precisions_init=precisions_init,
            random_state=random_state,
            warm_start=warm_start,
            verbose=verbose,
            verbose_interval=verbose_interval,
        )
        self.missing = missing

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "GaussianMixture":
        """Fit the mixture to rows X [N, D] by EM: the best of `n_init` starts, or, with `warm_start`, from where the
        last call ended.

        Args:
            y: Ignored.
            sample_weight: How often every row counts [N]; None for once.
        Raises:
            ValueError: As scikit-learn's.
        """
        self.fit_predict(X, y, sample_weight)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> np.ndarray:
        """`fit`, and the component of each row under the mixture found [N]."""
        X, weight = self._checked(X, sample_weight, least=2)
        counted = slice(None) if weight is None else weight > 0
        rows, weight = X[counted], None if weight is None else weight[counted]
        self._check_enough(rows)
        goes_on = self.warm_start and hasattr(self, "converged_")
        with _precision(X.dtype):
            engine = engine_for(rows, weight, self.covariance_type, int(self.n_components), float(self.reg_covar))
            rng, best, best_bounds, best_converged = check_random_state(self.random_state), None, [], False
            for i in range(1 if goes_on else self.n_init):
                self._print_verbose_msg_init_beg(i)
                start = self._found() if goes_on else self._start(engine, rows, weight, rng)
                state, bounds, converged = self._climb(engine, start, self.lower_bound_ if goes_on else -np.inf)
                if best is None or not bounds or bounds[-1] > best_bounds[-1]:
                    best, best_bounds, best_converged = state, bounds, converged
            self._keep(engine.mixture(best), X.dtype)
        self._stepwise, self.converged_ = None, best_converged
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init parameters, or increase max_iter, "
                "tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.n_iter_, self.lower_bounds_ = len(best_bounds), best_bounds
        self.lower_bound_ = best_bounds[-1] if best_bounds else -np.inf
        return self._of_joint(X, _largest)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "GaussianMixture":
        """Improve the mixture by a batch of rows, seen once (`jgmm.partial_fit`); the first batch, which must have as
        many rows as there are components, says where EM starts, and the units of features. It goes on from
        `partial_fit` alone. Of the parameters `n_components`, `covariance_type` and `random_state` count.

        Raises:
            ValueError: As `fit`, and for families whose statistics cannot be averaged (low-rank).
        """
        state = self._stepwise
        X, weight = self._checked(X, sample_weight, least=1, first=state is None)
        if state is None and hasattr(self, "converged_"):
            warnings.warn("partial_fit begins anew: what fit has found is given up.", UserWarning, stacklevel=2)
        if state is None:
            self._check_enough(X)
        elif (self.n_components, self.covariance_type) != (state.z_gmm.k, self._family):
            raise ValueError("n_components and covariance_type are those of the first batch: clone the mixture first.")
        self._family = self.covariance_type
        first: dict[str, Any] = {}
        if state is not None:
            X = X.astype(self.means_.dtype, copy=False)
        else:
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            first = {"k": self.n_components, "key": seed, "covariance_type": self.covariance_type}
        with _precision(X.dtype):
            found = partial_fit(state, X, sample_weight=weight, **first)
            self._stepwise = jax.tree.map(np.asarray, found)  # which is pickled in its own precision
            self._keep(found.gmm if self._arithmetic() is None else in_numpy(found.gmm), X.dtype)
        self.n_iter_, self.converged_, self.lower_bound_ = int(found.steps), False, float(found.log_likelihood)
        self.lower_bounds_ = [*(self.lower_bounds_ if state is not None else []), self.lower_bound_]
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row, nats [N]; of its observed features where `missing` is "marginal"."""
        return self._of_joint(X, _log_sum)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean of `score_samples`, in which rows count as often as `sample_weight` says."""
        found = self.score_samples(X)
        if sample_weight is None:
            return float(found.mean())
        weight = _check_sample_weight(sample_weight, found, dtype=np.float64, ensure_non_negative=True)
        return float(np.average(found, weights=weight))

    def predict(self, X: Any) -> np.ndarray:
        """The component of the largest responsibility of each row [N]."""
        return self._of_joint(X, _largest)

    def predict_proba(self, X: Any) -> np.ndarray:
        """p(k | x) of each row [N, K]."""
        return self._of_joint(X, _shares)

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draws from the mixture, ordered by component, and their components; those of scikit-learn where it has the
        family.

        Raises:
            ValueError: For fewer than one.
        """
        check_is_fitted(self)
        if n_samples < 1 or self.covariance_type in _FAMILIES:
            return super().sample(n_samples)
        key = jax.random.key(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        with _precision(self.means_.dtype):
            x, component = (np.asarray(a) for a in self.gmm_.sample(key, n_samples, return_components=True))
        order = np.argsort(component, kind="stable")
        return x[order], component[order]

    @property
    def gmm_(self) -> GMM:
        """The fitted mixture."""
        check_is_fitted(self)
        found = self._found()
        with _precision(self.means_.dtype):
            return found if isinstance(found, GMM) else as_gmm(found, self._arithmetic(), self.means_.dtype)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "marginal"
        tags.array_api_support = False
        return tags

    def _checked(self, X: Any, sample_weight: Any, *, least: int, first: bool = True) -> tuple[Any, Any]:
        """Rows and weights as arrays. Raises ValueError for what are none, and for parameters that do not fit."""
        self._validate_params()
        X = self._rows(X, reset=first, ensure_min_samples=least)
        if self.precisions_init is not None and self.covariance_type not in _FAMILIES:
            raise ValueError(f"precisions_init needs covariances of {sorted(_FAMILIES)}, got {self.covariance_type!r}.")
        self._check_parameters(X, xp=np)
        if sample_weight is None:
            return X, None
        return X, _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)

    def _check_enough(self, X: np.ndarray) -> None:
        n, k = len(X), self.n_components
        if n < k:
            raise ValueError(f"Expected n_samples >= n_components but got n_components = {k}, n_samples = {n}")

    def _rows(self, X: Any, **options: Any) -> np.ndarray:
        finite = "allow-nan" if self.missing == "marginal" else True
        return validate_data(self, X, dtype=[np.float64, np.float32], ensure_all_finite=finite, **options)

    def _start(self, engine: Engine, X: np.ndarray, weight: np.ndarray | None, rng: np.random.RandomState) -> Any:
        """Where EM starts: what the user has given, and the rest from responsibilities."""
        given = {"weights": self.weights_init, "means": self.means_init, "precisions": self.precisions_init}
        found: Any = None
        if any(value is None for value in given.values()):
            found = engine.mixture(engine.from_responsibilities(self._responsibilities(X, weight, rng)))
        known: dict[str, Any] = {}
        if self.weights_init is not None:
            with np.errstate(divide="ignore"):
                known["log_weights"] = np.log(np.asarray(self.weights_init, np.float64))
        if self.means_init is not None:
            known["means"] = np.asarray(self.means_init, np.float64)
        if isinstance(found, GMM):
            return replace(found, **{name: value.astype(X.dtype) for name, value in known.items()})
        if self.precisions_init is not None:
            precisions = np.asarray(self.precisions_init, np.float64)
            matrices = isinstance(self._arithmetic(), Matrices)
            known["leaf"] = self._arithmetic().leaf(np.linalg.inv(precisions) if matrices else 1 / precisions)
        return Mixture(**known) if found is None else found._replace(**known)

    def _responsibilities(
        self, X: np.ndarray, weight: np.ndarray | None, rng: np.random.RandomState
    ) -> Float[np.ndarray, "n k"]:
        """How much of each row the components have before EM, by `init_params`; drawn as scikit-learn does."""
        gaps = np.isnan(X)
        X = np.where(gaps, np.nanmean(X, axis=0), X) if gaps.any() else X
        return STARTS[self.init_params](X, self.n_components, weight, rng)

    def _climb(self, engine: Engine, start: Any, lower_bound: float) -> tuple[Any, list[float], bool]:
        """The state EM comes to, the lower bound before each iteration, and whether it has converged."""
        state, converged = engine.begin(start), False
        bounds: list[float] = []
        while len(bounds) < self.max_iter and not converged:
            state, bound = engine.step(state)
            change, lower_bound = bound - lower_bound, bound
            bounds.append(bound)
            converged = abs(change) < self.tol
            self._print_verbose_msg_iter_end(len(bounds), change)
        if self.max_iter > 0:
            self._print_verbose_msg_init_end(lower_bound, converged)
        return state, bounds, converged

    def _arithmetic(self) -> Any:
        return arithmetic_of(self.covariance_type)

    def _keep(self, found: Mixture | GMM, dtype: Any) -> None:
        """Write the attributes of a mixture."""
        self._gmm = jax.tree.map(np.asarray, found) if isinstance(found, GMM) else None
        self.weights_ = np.exp(np.asarray(found.log_weights, np.float64)).astype(dtype)
        self.weights_ /= self.weights_.sum()
        self.means_ = np.asarray(found.means).astype(dtype)
        if isinstance(found, GMM):
            for name in ("covariances_", "precisions_", "precisions_cholesky_"):
                self.__dict__.pop(name, None)
            return
        arithmetic = self._arithmetic()
        arrays = arithmetic.dense(found.leaf), *arithmetic.precisions(found.leaf)
        self.covariances_, self.precisions_, self.precisions_cholesky_ = (a.astype(dtype) for a in arrays)

    def _found(self) -> Mixture | GMM:
        """The mixture that the attributes are."""
        if self._gmm is not None:
            return self._gmm
        with np.errstate(divide="ignore"):
            log_weights = np.log(np.asarray(self.weights_, np.float64))
        arithmetic = self._arithmetic()
        if isinstance(arithmetic, Matrices):  # whose covariances, once rounded, may not be positive definite
            roots = np.asarray(self.precisions_cholesky_, np.float64)
            leaf = arithmetic.inverse((roots[None] if arithmetic.tied else roots).swapaxes(1, 2))
        else:
            leaf = arithmetic.leaf(np.asarray(self.covariances_, np.float64))
        return Mixture(log_weights, np.asarray(self.means_, np.float64), leaf)

    def _of_joint(self, X: Any, f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """f of log w_k + log N(x_n | μ_k, Σ_k), some rows at a time."""
        check_is_fitted(self)
        X = self._rows(X, reset=False)
        joint, size = self._log_joint(), max(1, PIECE // max(self.n_components, X.shape[1]))
        dtype = np.result_type(X, self.means_)
        with _precision(dtype):
            parts = (f(joint(X[i : i + size])) for i in range(0, len(X), size))
            return np.concatenate([part if part.dtype == np.int64 else part.astype(dtype) for part in parts])

    def _log_joint(self) -> Callable[[np.ndarray], np.ndarray]:
        """x -> log w_k + log N(x_n | μ_k, Σ_k) [N, K]; by JAX where it has a faster device or NumPy does not know the
        family."""
        arithmetic, d = self._arithmetic(), self.means_.shape[1]
        if self.missing == "marginal" or arithmetic is None or jax.default_backend() != "cpu":
            return _by_jax(self.gmm_)
        means, roots = (np.asarray(a, np.float64) for a in (self.means_, self.precisions_cholesky_))
        roots = roots[None] if arithmetic.tied else roots
        inverse = roots.swapaxes(1, 2) if isinstance(arithmetic, Matrices) else roots**2
        with np.errstate(divide="ignore"):
            log_weights = np.log(np.asarray(self.weights_, np.float64))
        constant = log_weights + 0.5 * (arithmetic.log_det(inverse, d) - d * LOG_2PI)
        return lambda x: (constant[:, None] - 0.5 * arithmetic.distances(x.astype(np.float64), means, inverse)).T

    def _estimate_log_prob(self, X: Any, xp: Any = None) -> np.ndarray:
        return self._log_joint()(np.asarray(X)) - self._estimate_log_weights()

    def _n_parameters(self) -> int:
        return super()._n_parameters() if self.covariance_type in _FAMILIES else self.gmm_.n_parameters


# Those of scikit-learn.
_FAMILIES = ("full", "tied", "diag", "spherical")


def _precision(dtype: Any) -> AbstractContextManager[Any]:
    """In this context JAX computes in float64 where the rows are."""
    return jax.enable_x64(True) if dtype == np.float64 else nullcontext()


def _by_jax(gmm: GMM) -> Callable[[np.ndarray], np.ndarray]:
    """x -> the log-joint densities of rows, of which features may be missing (NaN)."""
    log_weights = np.asarray(gmm.log_weights, np.float64)

    def of(x: np.ndarray) -> np.ndarray:
        if np.isnan(x).any():
            return np.asarray(observed_log_joint(gmm, x), np.float64)
        # Padded to one of few lengths, since every length is compiled for.
        padded = np.pad(x, ((0, (1 << (len(x) - 1).bit_length()) - len(x)), (0, 0)), mode="edge")
        return np.asarray(gmm.component_log_prob(padded)[: len(x)], np.float64) + log_weights

    return of


def _largest(joint: np.ndarray) -> np.ndarray:
    return joint.argmax(axis=1)


def _log_sum(joint: np.ndarray) -> np.ndarray:
    return logsumexp(joint, axis=1)


def _shares(joint: np.ndarray) -> np.ndarray:
    return softmax(joint, axis=1)
