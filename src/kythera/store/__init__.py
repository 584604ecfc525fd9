"""Data beside the code: what workers keep, and the programs that keep it."""
