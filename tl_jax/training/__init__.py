"""The training of a network: state, optimizer, steps, devices, checkpoints, and the loop."""
