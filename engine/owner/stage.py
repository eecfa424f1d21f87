"""What a device keeps for secure sums, sealed: its identity, what it has seen of rounds, the round that it is in.

The secrets of a round are single-use. They lie under one name, so that a round that is taken up replaces the one
before, and they are erased where it ends, where a memory is forgotten and where its owner withdraws. What is erased or
replaced is gone for good with the next forget, or at the latest when the store is closed.
"""

import secrets

from store import EncryptedStore

IDENTITY_BYTES = 32
_KIND = "secure rounds"
_IDENTITY, _SEEN, _ROSTER, _STATE, _DECLINED = "identity", "seen", "roster", "round", "declined"


class Stage:
    """The device's part in secure sums, in the sealed rows of its open store. What the bytes mean is the agent's."""

    def __init__(self, store: EncryptedStore) -> None:
        self._store = store

    def identity(self) -> bytes:
        """The private half of the device's identity key, 32 bytes: made from the system's source at its first use."""
        with self._store.transaction():
            kept = self._store.fetch(_KIND, _IDENTITY)
            if kept is None:
                kept = secrets.token_bytes(IDENTITY_BYTES)
                self._store.put(_KIND, _IDENTITY, kept)
            return kept

    @property
    def seen(self) -> bytes | None:
        """What the device has seen of rounds, so that none comes twice; ``None`` before the first."""
        return self._store.fetch(_KIND, _SEEN)

    def note_seen(self, seen: bytes) -> None:
        """Replace what was seen."""
        self._store.put(_KIND, _SEEN, seen, purges=False)

    @property
    def declined(self) -> bytes | None:
        """The latest request into which the device did not draw itself."""
        return self._store.fetch(_KIND, _DECLINED)

    def decline(self, asked: bytes) -> None:
        """Note that the device did not draw itself into this one, so that it is not asked until it does."""
        self._store.put(_KIND, _DECLINED, asked, purges=False)

    @property
    def roster(self) -> bytes | None:
        """The signed list of devices that was accepted last."""
        return self._store.fetch(_KIND, _ROSTER)

    def use_roster(self, signed: bytes) -> None:
        """Replace the list of devices."""
        self._store.put(_KIND, _ROSTER, signed, purges=False)

    @property
    def state(self) -> bytes | None:
        """The round that the device is in, with its secrets; ``None`` where it is in none."""
        return self._store.fetch(_KIND, _STATE)

    def keep(self, state: bytes) -> None:
        """Replace the round's state; durable when this returns, or with the transaction around it."""
        self._store.put(_KIND, _STATE, state)

    def erase(self) -> None:
        """Erase the round's state; without effect if there is none."""
        self._store.discard(_KIND, _STATE)
