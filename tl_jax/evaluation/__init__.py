"""What is done with a trained run: evaluation, prediction, export; probes of frozen features."""
