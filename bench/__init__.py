"""The bench: what Kythera promises, measured on this machine against the whole platform.

`python -m bench` prints a table and writes `results/*.json`. Every figure that depends on the
machine's speed is a ratio taken in one run. It starts platforms of its own, on loopback, in
temporary folders, and stops them again.
"""
