"""The modes of federated rounds, by who sees a device's update in clear.

In the mode **open** the server sees each clipped update. In **central** mode it does too, and is trusted to add noise
to what it releases. In **private** mode it sees masked arrays, and their sum with noise that the devices added.

>>> suffices("central", "private"), suffices("private", "open"), suffices(None, "private")
(True, False, False)
"""

OPEN, CENTRAL, PRIVATE = "open", "central", "private"
MODES = (OPEN, CENTRAL, PRIVATE)  # From the weakest to the strongest.


def suffices(allowed: str | None, mode: str) -> bool:
    """Whether a device whose owner allowed ``allowed`` takes part in a round in ``mode``: as strong, or stronger."""
    return allowed in MODES and mode in MODES and MODES.index(mode) >= MODES.index(allowed)
