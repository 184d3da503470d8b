"""From the order of examples to batches on the devices."""
