"""Many devices in one process: the grid, fleets on disk, experiments and their history."""
