"""The only door to the world: clock, chance, files, processes, network, kernel."""
