"""What can go wrong in the federation, each with its own type and an exit status of its own."""


class FederationError(Exception):
    """The base of all errors of this package; its text is one line a person can act on."""

    exit_code = 1


class DataError(FederationError):
    """A data file is missing, empty or malformed."""

    exit_code = 3


class RoundError(FederationError):
    """A round could not be completed: too few valid replies, or the deadline passed."""

    exit_code = 4


class RefusedRoundError(RoundError):
    """What a round added up cannot be what honest devices gave."""


class CheckpointError(FederationError):
    """A checkpoint is missing, damaged or of another model, or a run cannot be resumed from it."""

    exit_code = 5


class ConfigError(FederationError):
    """A setting is unknown or out of range."""

    exit_code = 2


class UpdateError(FederationError):
    """An update is malformed, or was refused by the device's own rules."""

    exit_code = 6


class RunBusyError(FederationError):
    """Another process is running in the same folder."""

    exit_code = 7


class PrivacyError(FederationError):
    """A privacy setting is out of range, or cannot give what it promises."""

    exit_code = 2


class BreachError(FederationError):
    """An audit found more than it may: what the system promises does not hold."""

    exit_code = 8
