"""A keychain for tests, in place of the operating system's."""

from __future__ import annotations

import keyring.backend
import keyring.errors


class MemoryKeychain(keyring.backend.KeyringBackend):  # type: ignore[misc]
    """A keychain in a dictionary; ``failure`` is raised by the next calls."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}
        self.failure: BaseException | None = None

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def get_password(self, service: str, username: str) -> str | None:
        self._fail()
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._fail()
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._fail()
        if self.entries.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError("not found")
