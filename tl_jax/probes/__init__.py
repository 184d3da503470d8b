"""Features of frozen networks, and classifiers fitted on them."""
