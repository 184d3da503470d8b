"""Reads a configuration: from it to a trained, reported run."""
