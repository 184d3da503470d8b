"""What several test files use: tiny networks, sources, batches, runs and processes."""
