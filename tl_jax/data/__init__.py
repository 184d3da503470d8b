"""Images: where they come from, how they are read, prepared, augmented and batched.

`mixing` and `place` need nothing but JAX, `augment` dm-pix besides, `preprocess` Pillow, `loader`
Grain, and `tfds_source`, `elpv` and `prepare` TensorFlow Datasets: therefore this file imports none
of them, and the modules are imported by name.
"""
