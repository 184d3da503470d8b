"""Losses and metrics: pure functions of outputs, labels and mask."""
