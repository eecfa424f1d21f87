"""What can go wrong in the engine, each with its own type and an exit status of its own."""


class EngineError(Exception):
    """The base of all errors of this package; its text is one line a person can act on."""

    exit_code = 1


class EncoderError(EngineError):
    """An encoder is missing, damaged, or gave vectors that are not finite."""

    exit_code = 20


class EncoderMismatchError(EngineError):
    """A memory or a model was made with another encoder than the one in use."""

    exit_code = 21


class CatalogueError(EngineError):
    """A catalogue is missing, empty or malformed."""

    exit_code = 22


class ModelError(EngineError):
    """A model or its checkpoint is missing, damaged or does not fit this device."""

    exit_code = 23


class ConsentError(EngineError):
    """Consent to a purpose was withdrawn, so that no memory is read for it."""

    exit_code = 24


class BackupError(EngineError):
    """An archive opened but does not hold memories that can be imported."""

    exit_code = 25


class BudgetError(EngineError):
    """The owner's limit of contributions to federated rounds is reached."""

    exit_code = 26


class PublisherError(EngineError):
    """A model is not signed by the publisher that the owner trusts, or another publisher is trusted already."""

    exit_code = 28


class LedgerError(EngineError):
    """A ledger that was written to a file is damaged, or was edited."""

    exit_code = 29


class ChangedMeanwhileError(EngineError):
    """A memory was forgotten, or the owner's word changed, while an update was made from the memory."""

    exit_code = 27
