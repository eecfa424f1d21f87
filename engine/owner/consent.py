"""Consent by purpose: what the user allowed memories to be used for, kept sealed, withdrawn at any time.

Keeping a memory for a purpose is the consent to read it for that purpose. A withdrawal holds for all memories of that
purpose, whenever they were kept, until consent is given again; both are noted in the device's ledger. Consent is asked
at reading: `suggest`, `evaluate` and `train` read for the purpose "personalization", `search` for the one it names.
"""

import json

from engine.errors import ConsentError
from store import EncryptedStore

PERSONALIZATION = "personalization"
_KIND = "consent"


class Consents:
    """The owner's word on each purpose, in the sealed rows of one open store."""

    def __init__(self, store: EncryptedStore) -> None:
        self._store = store

    def granted(self, purpose: str) -> bool:
        """Return whether memories kept for ``purpose`` may be read for it."""
        value = self._store.fetch(_KIND, purpose)
        return value is None or bool(json.loads(value)["granted"])

    def require(self, purpose: str) -> None:
        """Raise `ConsentError` if consent to ``purpose`` was withdrawn."""
        if not self.granted(purpose):
            raise ConsentError(
                f"Consent to the purpose {purpose!r} was withdrawn: no memory is read for it. Give it again with "
                "device.allow_purpose, or ask for another purpose."
            )

    def set(self, purpose: str, granted: bool, *, time: float) -> None:
        """Note the owner's word, given at ``time`` (Unix seconds), here and in the ledger."""
        word = json.dumps({"purpose": purpose, "granted": granted, "time": time}).encode()
        with self._store.transaction(witness=True):
            self._store.put(_KIND, purpose, word)
            self._store.append(_KIND, word)

    def withdrawn(self) -> list[str]:
        """Return the purposes whose consent was withdrawn, sorted."""
        return [purpose for purpose in self._store.names(_KIND) if not self.granted(purpose)]
