"""Parameter-efficient fine-tuning: a few trained parameters added to a frozen network."""
