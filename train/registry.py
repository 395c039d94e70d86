"""What a training chooses by name: an entry is a line here, or `register` gives an object of your own a name."""

from jgmm.registry import Registry

# space(config, images) -> Encoder whose codes are images
SPACES = Registry("space", {"pixel": "train.base:pixel_space", "zca": "train.base:zca_space"})

# source(config, images, space) -> NoiseSource; any other name is that of a run folder. A class has it as `build`.
SOURCES = Registry("source", {"gaussian": "train.sources:Gaussian", "mle": "train.sources:mle"})

# coupling(config, images, source, space) -> Coupling
COUPLINGS = Registry(
    "coupling",
    {
        "independent": "train.couplings.base:independent",
        "ot": "train.couplings.assignment:assignment",
        "cache": "train.couplings.assignment:cache",
        "component": "train.couplings.component:component",
        "component-ot": "train.couplings.assignment:in_components",
        "semidiscrete": "train.couplings.semidiscrete:semidiscrete",
        "component-semidiscrete": "train.couplings.semidiscrete:by_component",
    },
)

# features(8-bit training images) -> a function of 8-bit images [N, H, W, C] to features [N, D]
FEATURES = Registry(
    "kind of features",
    {
        "efficientnet-lite0": "train.metrics.features:efficientnet",
        "pca": "train.metrics.features:principal",
    },
)
