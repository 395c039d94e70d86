"""Bad values for every argument of the public functions, made from their signatures: each must raise InputError."""

import inspect
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from trial import Part, forked

AT_A_TIME = 30
# Of these a result that is not finite is right.
NOT_FINITE = ("nan", "inf", "NaN in rows")
# Arguments that are functions of the user's: what happens in them is theirs.
OF_THE_USER = (
    "callback",
    "init",
    "optimizer",
    "plan",
    "smoothing",
    "covariance_type",
    "encoder",
    "residual",
    "kind",
    "schedule",
)


def junk() -> dict[str, Any]:
    """What users pass by mistake."""
    return {
        "None": None,
        "text": "nonsense",
        "-1": -1,
        "1.5": 1.5,
        "nan": float("nan"),
        "inf": float("inf"),
        "an object": object(),
        "[]": [],
        "[[]]": [[]],
        "a dictionary": {"a": 1},
        "complex": np.ones((4, 2), complex),
        "NaN in rows": np.full((20, 2), np.nan),
        "words": np.array([["a", "b"]] * 20),
        "three axes": np.ones((2, 3, 4)),
        "five features": np.ones((20, 5)),
        "a path": Path("nowhere"),
        "a function": len,
    }


def functions() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """The public functions and methods, with arguments that work."""
    import jax

    import jgmm
    from jgmm import interpolant as ip
    from jgmm.encoder.identity import Identity
    from jgmm.encoder.pca import fit_pca
    from jgmm.interpolant.products import couple_products

    rng = np.random.default_rng(0)
    x, key = rng.normal(size=(20, 2)).astype(np.float32), jax.random.key(0)
    gmm = jgmm.GMM.from_parameters([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [1.0, 2.0], "spherical")
    source = jgmm.normalize(jgmm.unnormalized(gmm, Identity(2), (2,)), "scalar")
    flow = ip.path(ip.couple(gmm, gmm))
    product = jgmm.fit_product(0, x, k=2, blocks=1, classes=2, max_iter=3).mixture
    of_path = {"path": flow, "t": 0.5, "x": x}
    table: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (jgmm.fit_em, {"key": 0, "x": x, "k": 2, "max_iter": 3}),
        (jgmm.fit_product, {"key": 0, "x": x, "k": 2, "blocks": 1, "max_iter": 3}),
        (product.log_prob, {"x": x}),
        (product.component_log_prob, {"x": x}),
        (product.responsibilities, {"x": x}),
        (product.class_responsibilities, {"x": x}),
        (product.sample, {"key": key, "n": 3}),
        (product.sample_labels, {"key": key, "x": x}),
        (jgmm.ProductMixture.independent, {"gmm": jax.tree.map(lambda leaf: leaf[None], gmm)}),
        (couple_products, {"source": product, "target": product.given_class(0)}),
        (jgmm.fit_gradient, {"key": key, "model": gmm, "x": x, "epochs": 1}),
        (
            jgmm.GMM.from_parameters,
            {"weights": [1.0], "means": [[0.0, 1.0]], "covariances": [[1.0, 2.0]], "covariance_type": "diag"},
        ),
        (gmm.sample, {"key": key, "shape": 3}),
        (gmm.log_prob, {"x": x}),
        (gmm.component_log_prob, {"x": x}),
        (gmm.responsibilities, {"x": x}),
        (gmm.predict, {"x": x}),
        (gmm.cdf, {"x": x}),
        (gmm.quantile, {"q": 0.5}),
        (gmm.marginal, {"features": [0]}),
        (gmm.conditional, {"features": [0], "given": [1], "values": [0.0]}),
        (jgmm.sample, {"key": key, "model": source, "n": 3}),
        (jgmm.log_prob, {"model": source, "x": x}),
        (jgmm.normalize, {"source": source, "kind": "scalar"}),
        (jgmm.unnormalized, {"gmm": gmm, "encoder": Identity(2), "shape": (2,)}),
        (jgmm.save, {"path": "/nowhere/at/all", "model": gmm}),
        (jgmm.load, {"path": "/nowhere/at/all"}),
        (jgmm.ConditionalGMM.of, {"gmm": gmm}),
        (fit_pca, {"x": x, "n_components": 1}),
        (ip.couple, {"source": gmm, "target": gmm}),
        (ip.mw2, {"source": gmm, "target": gmm}),
        (ip.squared_wasserstein, {"source": gmm, "target": gmm}),
        (ip.path, {"coupling": ip.couple(gmm, gmm)}),
        *((f, of_path) for f in (ip.log_prob, ip.posterior, ip.velocity, ip.expected_source, ip.expected_target)),
        *((f, of_path) for f in (ip.score, ip.divergence, ip.fields, ip.continuity_residual, ip.effective_components)),
        (ip.drift, of_path | {"epsilon": 0.1}),
        (ip.sample, {"key": key, "path": flow, "t": 0.5, "n": 3}),
        (ip.transport, {"path": flow, "x": x}),
        (ip.log_likelihood, {"path": flow, "x": x}),
        (ip.diffuse, {"key": key, "path": flow, "x": x, "epsilon": 0.1, "steps": 4}),
        (ip.kinetic_energy, {"key": key, "path": flow, "n": 16}),
        (ip.straightness, {"key": key, "path": flow, "n": 16}),
        (ip.pair_cost, {"path": flow}),
        (ip.regularity_constants, {"path": flow}),
        (ip.fisher_information, {"key": key, "gmm": gmm, "n": 16}),
        (ip.random_mixture, {"key": key, "k": 2, "d": 2}),
    ]
    return {f"{getattr(f, '__qualname__', f)}": (f, given) for f, given in table}


def cases() -> Iterator[tuple[str, str, str]]:
    """Function, argument, and the name of what is put in its place. Runs in a child: it makes arrays."""
    for name, (f, _) in functions().items():
        for argument, parameter in inspect.signature(f).parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or argument in OF_THE_USER:
                continue
            for word in junk():
                yield name, argument, word


def _all_cases() -> list[tuple[str, str, str]]:
    return list(cases())


def attempt(batch: list[tuple[str, str, str]], folder: Path) -> list[tuple[str, str]]:
    """What became of each: refused, accepted, or wrong and why."""
    import jax

    import jgmm

    table, bad, found = functions(), junk(), []
    os.chdir(tempfile.mkdtemp(prefix="torture-", dir=folder))  # a path among the junk may be written to
    for name, argument, word in batch:
        f, given = table[name]
        try:
            result = f(**given | {argument: bad[word]})
        except jgmm.InputError as error:
            found.append(("refused", str(error)) if "\n" not in str(error).strip() else ("wrong", "several lines"))
            continue
        except Exception as error:
            found.append(("wrong", f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"))
            continue
        numbers = [np.asarray(a) for a in jax.tree.leaves(result) if hasattr(a, "dtype") and not _is_key(a)]
        finite = word in NOT_FINITE or all(np.isfinite(a).all() for a in numbers if a.dtype.kind == "f")
        found.append(("accepted", "") if finite else ("wrong", "accepted, and the result is not finite"))
    return found


def _is_key(a: Any) -> bool:
    import jax

    return jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)


def run(seed: int, folder: Path, size: float) -> list[Part]:
    """Every case at size 1, some at others."""
    part, draw = Part("bad arguments"), random.Random(seed)
    folder.mkdir(parents=True)
    every = forked(_all_cases).value
    chosen = every if size >= 1 else draw.sample(every, max(20, round(size * len(every))))
    for first in range(0, len(chosen), AT_A_TIME):
        batch = sorted(chosen[first : first + AT_A_TIME])
        outcome = forked(attempt, batch, folder)
        results = outcome.value or [("wrong", str(outcome))] * len(batch)
        for (name, argument, word), (verdict, why) in zip(batch, results, strict=True):
            if verdict == "refused":
                part.refuse()
            else:
                part.judge(verdict == "accepted", f"{name}({argument}={word}): {why}")
    return [part]
