"""Everything a device or a server refuses in a secure sum, each with a type of its own and one line of text.

No text quotes a secret, a vector or a label. All are :class:`SecAggError`, and that a ``FederationError``.
"""

from federation.errors import FederationError


class SecAggError(FederationError):
    """The base of what goes wrong in a secure sum."""

    exit_code = 40


class ParameterError(SecAggError):
    """No graph and threshold keep the promises for this cohort, or the terms are not on the device's list."""

    exit_code = 41


class FloorError(SecAggError):
    """The cohort, the threshold or the honest part of the sum is below the device's own floor."""

    exit_code = 42


class RosterError(SecAggError):
    """The roster is malformed, not signed by the pinned key, or not the one that the round names."""

    exit_code = 43


class RosterRollbackError(RosterError):
    """The roster is older than one that this device has seen."""

    exit_code = 44


class ModelError(SecAggError):
    """The round is for another model than the one that came with it."""

    exit_code = 52


class ReplayError(SecAggError):
    """The round was seen before, or a stage of it was answered already to another message."""

    exit_code = 45


class WireError(SecAggError):
    """A message is not as the protocol writes it: size, version, kind, order or range."""

    exit_code = 46


class PeerKeyError(SecAggError):
    """A peer's keys are unsigned, wrongly signed, unknown, repeated or of low order."""

    exit_code = 47


class GraphError(SecAggError):
    """The neighbours that the server names do not follow from the adverts and the randomness in them."""

    exit_code = 48


class SurvivorError(SecAggError):
    """The sets of devices that the server names contradict each other, or too few agreed on them."""

    exit_code = 49


class StateError(SecAggError):
    """The stored state of a round is damaged, or of another device."""

    exit_code = 50


class UnmaskError(SecAggError):
    """The sum cannot be unmasked: too few shares came, or some were wrong."""

    exit_code = 51
