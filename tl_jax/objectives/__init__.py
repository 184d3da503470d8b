"""Losses, metrics and the objective of each kind of task: pure functions of outputs and labels."""
