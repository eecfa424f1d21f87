"""From a shared model to a personal one: the re-scorer, its evidence, and what bounds it."""
