"""Choosing a backbone for a data set before anything is trained."""
