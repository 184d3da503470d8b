"""What lies above a backbone: pooling, fusion, encoders of other inputs, and heads."""
