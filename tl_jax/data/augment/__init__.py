"""Augmentation on the device, inside jit."""
