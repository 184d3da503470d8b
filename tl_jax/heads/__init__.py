"""Heads of networks: pooling, linear, MLP and cosine classifiers, and how they are initialized."""
