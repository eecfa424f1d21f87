"""A store from its making to its upgrade: made, opened, given slots and new keys, checked."""
