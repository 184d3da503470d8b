"""Pretrained weights: where they come from, what is known of them, and conversion both ways."""
