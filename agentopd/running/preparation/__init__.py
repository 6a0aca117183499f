"""What is measured of a model in an environment before, and beside, its training."""
