"""A page on one run, or on several that are compared."""
