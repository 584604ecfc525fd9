"""A whole fleet on one computer: real machines' processes, simulated links between them."""
