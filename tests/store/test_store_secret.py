"""Where a device secret may lie: each place keeps the same promises, and a keychain that fails is told."""

from __future__ import annotations

import base64
import errno
import hashlib
import sys
from pathlib import Path

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.backends.null
import keyring.errors
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keychains import MemoryKeychain

from store.errors import DeviceSecretError
from store.outside.device_secret import (
    DeviceSecret,
    FileSecret,
    KeychainSecret,
    encode_entry,
)

FIRST, SECOND, THIRD = (hashlib.sha256(bytes((number,))).digest() for number in range(1, 4))


@pytest.fixture
def keychain(keychain: MemoryKeychain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryKeychain:
    """The shared one, with a state folder of the test's own."""
    monkeypatch.setenv("TACIT_STATE_DIR", str(tmp_path / "state"))
    return keychain


@pytest.fixture(params=["file", "keychain"])
def provider(request: pytest.FixtureRequest, tmp_path: Path, keychain: MemoryKeychain) -> DeviceSecret:
    """An empty provider of each kind."""
    return FileSecret(tmp_path / "any.secret") if request.param == "file" else KeychainSecret("home")


# Both providers


def test_a_forget_leaves_only_the_next_secret(provider: DeviceSecret) -> None:
    assert not provider.exists()
    provider.create(1, FIRST)
    assert provider.exists()
    assert provider.read() == {1: FIRST}
    provider.prepare(2, SECOND)
    assert provider.read() == {1: FIRST, 2: SECOND}
    provider.commit(2)
    assert provider.read() == {2: SECOND}
    provider.commit(2)
    assert provider.read() == {2: SECOND}


def test_a_secret_prepared_again_replaces_the_prepared_one_alone(provider: DeviceSecret) -> None:
    provider.create(1, FIRST)
    provider.prepare(2, THIRD)
    provider.prepare(2, SECOND)
    assert provider.read() == {1: FIRST, 2: SECOND}


def test_a_late_commit_of_another_process_spares_the_secret_prepared_since(provider: DeviceSecret) -> None:
    provider.create(1, FIRST)
    provider.prepare(2, SECOND)
    provider.prepare(3, THIRD)
    provider.commit(2)
    assert provider.read() == {2: SECOND, 3: THIRD}
    provider.commit(3)
    provider.commit(2)
    assert provider.read() == {3: THIRD}


def test_nothing_is_destroyed_for_an_epoch_that_is_not_there(provider: DeviceSecret) -> None:
    provider.create(4, FIRST)
    for epoch in (3, 4, 6, 7):
        with pytest.raises(DeviceSecretError, match="open the store again"):
            provider.prepare(epoch, SECOND)
    with pytest.raises(DeviceSecretError, match="nothing was destroyed"):
        provider.commit(5)
    assert provider.read() == {4: FIRST}


def test_create_never_replaces_a_secret(provider: DeviceSecret) -> None:
    provider.create(1, FIRST)
    with pytest.raises(DeviceSecretError, match="choose another name"):
        provider.create(1, SECOND)
    with pytest.raises(DeviceSecretError, match="choose another name"):
        provider.create(2, SECOND)
    assert provider.read() == {1: FIRST}


def test_destroy_leaves_nothing_and_may_be_repeated(provider: DeviceSecret) -> None:
    provider.destroy()
    provider.create(1, FIRST)
    provider.prepare(2, SECOND)
    provider.destroy()
    provider.destroy()
    assert not provider.exists()
    for action in (provider.read, lambda: provider.prepare(2, SECOND), lambda: provider.commit(2)):
        with pytest.raises(DeviceSecretError):
            action()
    provider.create(1, THIRD)
    assert provider.read() == {1: THIRD}


@pytest.mark.parametrize(("epoch", "secret"), [(0, FIRST), (-1, FIRST), (2**63, FIRST), (2, b""), (2, FIRST + b"x")])
def test_an_impossible_epoch_or_secret_is_refused(provider: DeviceSecret, epoch: int, secret: bytes) -> None:
    with pytest.raises(ValueError, match="32"):
        provider.create(epoch, secret)
    assert not provider.exists()


STEPS = st.lists(st.tuples(st.sampled_from(["prepare", "commit"]), st.integers(-2, 2)), max_size=25)


@given(STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_changes_keeps_the_latest_and_what_is_beside_it(
    tmp_path: Path, keychain: MemoryKeychain, steps: list[tuple[str, int]]
) -> None:
    for secret in (FileSecret(tmp_path / "any.secret"), KeychainSecret("any")):
        secret.destroy()
        secret.create(5, FIRST)
        model, current = {5: FIRST}, 5
        for number, (step, offset) in enumerate(steps):
            epoch, fresh = current + offset, hashlib.sha256(bytes((number,))).digest()
            try:
                if step == "prepare":
                    allowed = epoch - 1 in model
                    secret.prepare(epoch, fresh)
                    model = {epoch - 1: model[epoch - 1], epoch: fresh}
                else:
                    allowed = epoch in model or epoch < max(model)
                    secret.commit(epoch)
                    model = {at: value for at, value in model.items() if at >= epoch}
                    current = max(min(model), current)
                assert allowed
            except DeviceSecretError:
                assert not allowed
            assert secret.read() == model


# The keychain


def test_the_keychain_holds_what_a_page_holds(keychain: MemoryKeychain) -> None:
    secret = KeychainSecret("home")
    secret.create(1, FIRST)
    secret.prepare(2, SECOND)
    assert {name: base64.b64decode(value) for name, value in keychain.entries.items()} == {
        ("tacit", "secret home odd"): encode_entry(1, FIRST),
        ("tacit", "secret home even"): encode_entry(2, SECOND),
    }
    assert FIRST.hex() not in repr(secret)


def test_two_names_are_two_secrets(keychain: MemoryKeychain) -> None:
    one, other = KeychainSecret("one"), KeychainSecret("other")
    one.create(1, FIRST)
    other.create(1, SECOND)
    one.destroy()
    assert other.read() == {1: SECOND}


@pytest.mark.parametrize("text", ["", "x", "é", "A" * 112, "=" * 4, "\0"])
def test_a_malformed_entry_counts_as_absent(keychain: MemoryKeychain, text: str) -> None:
    secret = KeychainSecret("home")
    secret.create(1, FIRST)
    secret.prepare(2, SECOND)
    keychain.entries["tacit", "secret home odd"] = text
    assert secret.read() == {2: SECOND}
    keychain.entries["tacit", "secret home even"] = text
    with pytest.raises(DeviceSecretError, match="no device secret"):
        secret.read()


@pytest.mark.parametrize(
    "failure",
    [
        keyring.errors.KeyringLocked("locked\nand more"),
        keyring.errors.InitError("no session"),
        keyring.errors.PasswordSetError("secret"),
        keyring.errors.PasswordDeleteError("secret"),
        keyring.errors.NoKeyringError("none"),
        OSError(errno.EPIPE, "gone"),
        RuntimeError("odd"),
    ],
)
def test_a_failing_keychain_gives_one_typed_line(keychain: MemoryKeychain, failure: BaseException) -> None:
    secret = KeychainSecret("home")
    secret.create(1, FIRST)
    keychain.failure = failure
    for action in (
        secret.read,
        secret.exists,
        secret.destroy,
        lambda: secret.create(1, FIRST),
        lambda: secret.prepare(2, SECOND),
        lambda: secret.commit(1),
    ):
        with pytest.raises(DeviceSecretError, match=type(failure).__name__) as caught:
            action()
        assert "\n" not in str(caught.value)
    keychain.failure = None
    assert secret.read() == {1: FIRST}


def test_a_keychain_that_keeps_nothing_is_found_out(keychain: MemoryKeychain) -> None:
    keyring.set_keyring(keyring.backends.null.Keyring())
    with pytest.raises(DeviceSecretError, match="did not keep"):
        KeychainSecret("home").create(1, FIRST)
    keyring.set_keyring(keyring.backends.fail.Keyring())
    with pytest.raises(DeviceSecretError, match="NoKeyringError"):
        KeychainSecret("home").create(1, FIRST)


def test_a_keychain_that_deletes_nothing_is_found_out(
    keychain: MemoryKeychain, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = KeychainSecret("home")
    secret.create(1, FIRST)
    secret.prepare(2, SECOND)
    monkeypatch.setattr(MemoryKeychain, "delete_password", lambda *_args: None)
    with pytest.raises(DeviceSecretError, match="did not delete"):
        secret.commit(2)


def test_without_the_package_the_error_says_what_to_install(
    keychain: MemoryKeychain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(DeviceSecretError, match=r"pip install 'tacit\[keychain\]'"):
        KeychainSecret("home").read()


@pytest.mark.parametrize("name", ["", "x" * 129, "two\nlines", "nul\0", 7])
def test_a_name_that_names_no_entry_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="printable"):
        KeychainSecret(name)  # type: ignore[arg-type]
