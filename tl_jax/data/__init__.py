"""Images: sources, splits, decoding, preprocessing, augmentation, loading, preparing sets.

Nothing is imported here: a machine that only runs training steps needs neither Pillow nor
TensorFlow Datasets.
"""
