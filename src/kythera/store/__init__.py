"""Data beside the code: thin services in front of kept engines, each a program of its own."""
