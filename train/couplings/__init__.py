"""Which x0 goes with which image: a file for every idea, registered in `train.registry.COUPLINGS`."""
