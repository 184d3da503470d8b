"""What stands on a backbone: pooling, dense layers, classifiers."""
