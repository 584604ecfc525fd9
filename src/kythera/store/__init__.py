"""Data beside the code: what a worker keeps, and what is kept for it until its time has come."""
