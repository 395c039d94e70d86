"""Two mixtures become a coupling, and a coupling a path: for plain mixtures and for products of block mixtures."""

from typing import Any

from jgmm.errors import check
from jgmm.interpolant.couplings import Coupling, couple_mixtures
from jgmm.interpolant.paths import Path, path_of
from jgmm.interpolant.products import ProductCoupling, ProductPath, couple_products, path_of_products
from jgmm.interpolant.schedules import OfTime, Schedule, as_schedule, as_smoothing
from jgmm.mixture import GMM
from jgmm.numerics.arguments import check_kind
from jgmm.product.mixture import ProductMixture


def couple(
    source: GMM | ProductMixture,
    target: GMM | ProductMixture,
    plan: Any = "independent",
    inside: str = "independent",
    **options: Any,
) -> Coupling | ProductCoupling:
    """A coupling of two mixtures by a plan between their components.

    Products of block mixtures with the same blocks are coupled independently; one end may be N(0, I), or another
    Gaussian whose features are independent, and one alone may have classes.

    Args:
        plan: A name in `jgmm.registry.PLANS` or a function, with its options (entropic: epsilon), or weights [K0, K1].
        inside: "independent", or "map" for x_1 = m_1 + M (x_0 − m_0) with the optimal M.
    Raises:
        InputError: For mixtures of different dimension, weights that do not sum to one, an unknown plan, a plan whose
            sums are not the weights, and products that cannot be coupled.

    >>> ip.couple(source, target, plan="optimal", inside="map").pairs.tolist()
    [[0, 0], [0, 1]]
    """
    if not (isinstance(source, ProductMixture) or isinstance(target, ProductMixture)):
        return couple_mixtures(source, target, plan, inside, **options)
    independent = isinstance(plan, str) and plan == inside == "independent" and not options
    check(independent, "products are coupled independently: leave plan and inside out.")
    return couple_products(source, target)


def path(
    coupling: Coupling | ProductCoupling, schedule: str | Schedule = "linear", smoothing: str | OfTime = "none"
) -> Path | ProductPath:
    """The path of a coupling.

    Args:
        schedule: a name in `jgmm.registry.SCHEDULES`, or a `Schedule`.
        smoothing: a name in `jgmm.registry.SMOOTHINGS`, or a function t -> γ_t².
    Raises:
        InputError: For unknown names, and for functions that miss the conditions at t = 0 and 1.

    >>> ip.path(ip.couple(source, target), schedule="cosine", smoothing="brownian").d
    2
    """
    kinds = (Coupling, ProductCoupling)
    check_kind("coupling", coupling, kinds, "a coupling, as jgmm.interpolant.couple makes it of two mixtures")
    chosen = as_schedule(schedule), as_smoothing(smoothing)
    return path_of(coupling, *chosen) if isinstance(coupling, Coupling) else path_of_products(coupling, *chosen)
