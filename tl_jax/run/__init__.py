"""A run: from a configuration to a folder with a trained network, its record and its report."""
