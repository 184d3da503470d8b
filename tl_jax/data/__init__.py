"""Images: where they come from, how they are read, prepared, augmented and batched.

`augment` needs nothing but JAX, `preprocess` Pillow besides, `loader` Grain and `tfds_source` and
`elpv` TensorFlow Datasets: therefore this file imports none of them, and the modules are
imported by name.
"""
