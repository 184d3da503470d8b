"""Checks a set of images once, reports on it and packs it."""
