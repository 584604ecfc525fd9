"""Kythera: the machines you own, as one computer. See ARCHITECTURE.md for the map."""

__version__ = "0.1.0"
