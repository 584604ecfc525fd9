"""A request finds a worker and one of its cells: HAProxy's plan, files and sockets."""
