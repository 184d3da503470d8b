"""Training: state, optimizers, steps, evaluation of a split, checkpoints, devices."""
