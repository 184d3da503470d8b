"""Transfer methods over pytrees: which parameters are trained, added or carried over."""
