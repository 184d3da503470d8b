"""Pretrained weights: their sources, an index of them, and conversion from and to torch."""
