"""The commands of `tacit device` about who opens a device: slots, rotate, verify."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from federation.cli.console import print_json
from federation.cli.device_shared import (
    json_option,
    opened_store,
    path_argument,
    plural,
    print_table,
)
from federation.cli.unlock import Unlocking, passphrase_from, unlock_options

if TYPE_CHECKING:
    from store import EncryptedStore, Receipt, Unlock


@click.command()
@path_argument
@click.option(
    "--add-passphrase-file",
    "add_passphrase",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Its first line opens it too.",
)
@click.option("--add-key", type=click.Path(path_type=Path), metavar="FILE", help="A device key; made if missing.")
@click.option("--add-recovery", is_flag=True, help="Make a recovery key and print it, once.")
@click.option("--add-keychain", metavar="NAME", help="Make a key in the system's keychain under NAME.")
@click.option("--change", type=click.IntRange(1), metavar="NUMBER", help="Replace what opens this slot: with --to.")
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="The new passphrase: first line of FILE.")
@click.option("--remove", type=click.IntRange(1), metavar="NUMBER", help="Take this slot away.")
@json_option
@unlock_options
def slots(
    path: Path,
    add_passphrase: Path | None,
    add_key: Path | None,
    add_recovery: bool,
    add_keychain: str | None,
    change: int | None,
    to: Path | None,
    remove: int | None,
    as_json: bool,
    unlocking: Unlocking,
) -> None:
    """List, add, change or remove what opens the device at PATH: passphrases, keys, a recovery key.

    One change a call. Changing and removing give the device a new store key and begin a new epoch: what the old
    passphrase opened, older copies of the files included, stays closed. No memory is written anew.
    """
    wishes = [add_passphrase, add_key, add_recovery or None, add_keychain, change, remove]
    if sum(wish is not None for wish in wishes) > 1:
        raise click.UsageError("One change a call: give one of the options.")
    if (change is None) != (to is None):
        raise click.UsageError("Give --change NUMBER and --to FILE together.")
    made: dict[str, object] = {}
    with opened_store(path, unlocking) as store:
        if change is not None and to is not None:
            made = _receipt(store.access.replace(change, passphrase_from(to)))
        elif remove is not None:
            made = _receipt(store.access.remove(remove))
        elif any(wish is not None for wish in wishes):
            with _new_unlock(path, add_passphrase, add_key, add_keychain) as (unlock, shown):
                made = {"added": store.access.add(unlock), **shown}
        _show_slots(store, made, as_json=as_json)


@contextlib.contextmanager
def _new_unlock(
    path: Path, passphrase: Path | None, key_file: Path | None, keychain: str | None
) -> Iterator[tuple["Unlock", dict[str, object]]]:
    """Give what will open the device too; a key made for it goes away again if it cannot be added."""
    from store import KeychainKey, RecoveryKey

    if passphrase is not None:
        yield passphrase_from(passphrase), {}
    elif key_file is not None:
        with Unlocking(passphrase_file=None, key_file=key_file).unlock_new(path, keep=False) as unlock:
            yield unlock, {"key_file": str(key_file)}
    elif keychain is not None:
        made = KeychainKey.create(keychain)
        try:
            yield made, {"keychain": keychain}
        except BaseException:
            KeychainKey.discard(keychain)
            raise
    else:
        recovery = RecoveryKey.generate()
        yield recovery, {"recovery_key": recovery.text()}


def _show_slots(store: "EncryptedStore", made: dict[str, object], *, as_json: bool) -> None:
    infos = store.access.slots()
    if as_json:
        listed = [{"number": info.number, "kind": info.kind, "used": info.used} for info in infos]
        print_json({"slots": listed, **made})
        return
    if "recovery_key" in made:
        click.echo(f"Recovery key, shown this once: {made['recovery_key']}")
    if "added" in made:
        click.echo(f"Added slot {made['added']}.")
    if "epoch" in made:
        click.echo(f"Changed; epoch {made['epoch']} began, and older copies of the files stay closed.")
    rows = [(str(info.number), info.kind, "opened this call" if info.used else "") for info in infos]
    print_table(("slot", "kind", ""), rows, right=("slot",))


@click.command()
@path_argument
@json_option
@unlock_options
def rotate(path: Path, as_json: bool, unlocking: Unlocking) -> None:
    """Give the device at PATH new keys throughout, and seal all that it holds anew.

    The device stays usable meanwhile. A rotation that is cut off goes on with the next call.
    """
    from federation.cli.showing import progress_bar

    with opened_store(path, unlocking) as store:
        resumed = store.rotating
        with progress_bar("Sealing anew") as show:
            store.rotate(show)
        receipt = store.receipts()[-1]
    if as_json:
        print_json({"rotated": True, "resumed": resumed, "receipt": receipt.as_json()})
        return
    click.echo(f"{'Finished a rotation that was cut off' if resumed else 'Rotated'}: epoch {receipt.epoch} began.")


@click.command()
@path_argument
@json_option
@unlock_options
def verify(path: Path, as_json: bool, unlocking: Unlocking) -> None:
    """Open every sealed value of the device at PATH, and check its ledger and its receipts of forgetting."""
    with opened_store(path, unlocking) as store:
        values = store.verify()
        receipts = store.receipts()
        rotating = store.rotating
    if as_json:
        listed = [receipt.as_json() for receipt in receipts]
        print_json({"values": values, "receipts": listed, "rotation_unfinished": rotating})
        return
    click.echo(f"Whole: {plural(values, 'sealed value')} opened, {plural(len(receipts), 'receipt')} in order.")
    if rotating:
        click.echo("A rotation was cut off: `tacit device rotate` finishes it.")


def _receipt(receipt: "Receipt") -> dict[str, object]:
    return {"epoch": receipt.epoch, "receipt": receipt.as_json()}
