"""The publisher that a device trusts."""

from store import EncryptedStore

_KIND = "publisher"


class Publishers:
    """The pinned key."""

    def __init__(self, store: EncryptedStore) -> None:
        self._store = store

    @property
    def key(self) -> bytes | None:
        """The pinned Ed25519 key."""
        return self._store.fetch(_KIND, "key")

    def trust(self, key: bytes) -> None:
        """Pin it."""
        self._store.put(_KIND, "key", key)
