"""What happened inside a worker, for those who may ask: tails."""
