"""The features that images are compared in. A member of `train.registry.FEATURES` is a function of 8-bit training
images [N, H, W, C] that returns one of 8-bit images, to their features [n, d]."""

from collections.abc import Callable

import numpy as np

from jgmm.data import to_features
from jgmm.encoder.scatter import mean_and_covariance
from train.metrics import efficientnet as network

Features = Callable[[np.ndarray], np.ndarray]
# Principal components that images are compared in, where there are so many.
COMPONENTS = 64


def efficientnet(train: np.ndarray) -> Features:
    """Those of EfficientNet-Lite0 (`train.metrics.efficientnet`)."""
    network.weights()
    return network.features


def principal(train: np.ndarray) -> Features:
    """The first 64 principal components of the training images, in pixels of [-1, 1]: colors and coarse forms."""
    mean, covariance = mean_and_covariance(to_features(train))
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :COMPONENTS]
    return lambda pixels: (to_features(pixels) - mean) @ axes
