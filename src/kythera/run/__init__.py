"""Cells: workerd's configuration, socket activation, limits; one process for each version."""
