"""Helpers of several test files: tiny networks, sources, batches, runs and processes."""
