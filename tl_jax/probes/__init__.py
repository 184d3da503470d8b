"""Features of a frozen network, and simple classifiers on them."""
