"""Data beside the code: what is kept for workers, and the protocols they ask for it in."""
