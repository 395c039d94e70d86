"""What a training chooses by name: an entry is a line here, or `register` gives an object of your own a name."""

from jgmm.registry import Registry

# space(config, images) -> Encoder whose codes are images
SPACES = Registry("space", {"pixel": "train.base:pixel_space", "zca": "train.base:zca_space"})

# source(config, images, space) -> NoiseSource; any other name is that of a run folder. A class has it as `build`.
SOURCES = Registry("source", {"gaussian": "train.sources:Gaussian", "mle": "train.sources:mle"})

# coupling(config, images, source) -> Coupling
COUPLINGS = Registry(
    "coupling",
    {
        "independent": "train.couplings:independent",
        "ot": "train.couplings:assignment",
        "component": "train.couplings:component",
    },
)
