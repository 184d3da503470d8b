"""Images: sources, splits, decoding, preprocessing, augmentation, loading, preparing sets.

This file imports nothing, so that a machine that only runs steps needs neither Pillow nor
TensorFlow Datasets: modules are imported by name.
"""
