"""Mixtures in the files of other libraries: `jgmm.convert.read` and `write`, and `python -m jgmm.convert`.

    .pkl .joblib     a fitted GaussianMixture of scikit-learn, or {'gmm': it, 'pca': a PCA or None} of images
    .skops           a fitted GaussianMixture
    .pt .pth         the state_dict of a zuko GMM
    .npz             weights, means, covariances, covariance_type
    .safetensors     the same
    a folder         what `jgmm.save` and `python -m jgmm.fit` write

Nothing in a file is run: pickles go through a reader that admits arrays and the few types such files hold, and refuses
anything else by its name.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jgmm.convert.files import read as read
    from jgmm.convert.files import write as write


def __getattr__(name: str) -> Any:
    """`read` and `write`, imported when first used."""
    if name not in ("read", "write"):
        raise AttributeError(f"module 'jgmm.convert' has no attribute {name!r}")
    from jgmm.convert import files

    return getattr(files, name)
