"""`tacit publisher`: the key that vouches for models and devices, which the server of the rounds does not have."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from federation.cli.console import print_json
from federation.cli.device_consent import PUBLIC_KEY
from federation.cli.device_shared import plural

if TYPE_CHECKING:
    from federation.secagg.keys import SigningKey

_keyfile = click.argument("keyfile", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")


@click.group(name="publisher")
def command() -> None:
    """Sign models and the list of devices, for devices whose owners trust this publisher.

    Keep KEYFILE away from the server of the rounds: who has it can put any model on the devices, and devices of its own
    into private rounds.
    """


@command.command()
@_keyfile
@_json
def create(keyfile: Path, as_json: bool) -> None:
    """Make a new key in KEYFILE, mode 0600, which must not exist, and print its public half.

    Owners name that to their devices: `tacit device publisher PATH KEY`.
    """
    from federation.secagg.keys import SigningKey
    from store.keys.unlock import write_key_file

    key = SigningKey.generate()
    write_key_file(keyfile, key.private_bytes())
    _print_public(key, as_json=as_json)


@command.command()
@_keyfile
@_json
def show(keyfile: Path, as_json: bool) -> None:
    """Print the public half of the key in KEYFILE."""
    _print_public(_key(keyfile), as_json=as_json)


@command.command()
@_keyfile
@click.argument("model", type=click.Path(path_type=Path))
@_json
def sign(keyfile: Path, model: Path, as_json: bool) -> None:
    """Sign the file MODEL, of labels or of choices, and write the signature beside it, to MODEL.sig.

    It covers all that a device keeps of the model, and not what continues its run on the server.
    """
    from engine.choices.model import KIND, ChoiceModel
    from engine.errors import ModelError
    from engine.model.checkpoint import Checkpoint, write_atomically
    from engine.owner.publisher import signature_file, signed_text

    key, loaded = _key(keyfile), Checkpoint.load(model)
    bare = (ChoiceModel.load(model) if loaded.encoder == KIND else loaded).bare()
    signature, file = key.sign(signed_text(bare.content_hash())).hex(), signature_file(model)
    try:
        write_atomically(file, signature.encode() + b"\n")
    except OSError as error:
        raise ModelError(f"Cannot write {file}: {error.strerror}.") from None
    if as_json:
        print_json({"signature": signature, "file": str(file), "key": key.public.hex()})
        return
    click.echo(f"Signed {model}: {file}.")


@command.command()
@_keyfile
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("identities", type=PUBLIC_KEY, metavar="IDENTITY...", nargs=-1)
@click.option(
    "--from", "lines", type=click.Path(path_type=Path), metavar="LIST", help="More identities, one a line of LIST."
)
@click.option("--version", type=click.IntRange(1), metavar="N", help="Above FILE's.  [default: one more, from 1]")
@_json
def roster(
    keyfile: Path, file: Path, identities: Sequence[bytes], lines: Path | None, version: int | None, as_json: bool
) -> None:
    """Sign the list of devices that private rounds are among, and write it to FILE: exactly those with an IDENTITY.

    A device prints its identity with `tacit device identity PATH`. Each list has a higher version than the one in FILE,
    which it replaces; a device takes no lower version than it has seen, so keep FILE, or give --version.
    """
    from engine.model.checkpoint import write_atomically
    from federation.secagg.errors import RosterError
    from federation.secagg.roster import Roster, open_roster, sign_roster

    key = _key(keyfile)
    before = open_roster(_read(file), publisher=key.public).version if file.exists() else 0
    if version is not None and version <= before:
        raise RosterError(f"{file} has version {before}: give a higher one, since devices take no lower one.")
    keys = (*identities, *([] if lines is None else _listed(lines)))
    if not keys:
        raise click.UsageError("Name the devices: an IDENTITY each, or --from LIST.")
    made = Roster(version=version or before + 1, keys=keys)
    try:
        write_atomically(file, sign_roster(made, key))
    except OSError as error:
        raise RosterError(f"Cannot write {file}: {error.strerror}. The file before it, if any, is whole.") from None
    if as_json:
        print_json({"version": made.version, "devices": len(keys), "file": str(file), "hash": made.hash.hex()})
        return
    click.echo(f"Signed a list of {plural(len(keys), 'device')}, version {made.version}: {file}.")


def _key(keyfile: Path) -> "SigningKey":
    from federation.secagg.keys import SigningKey
    from store.keys.unlock import read_key_file

    return SigningKey(read_key_file(keyfile))


def _print_public(key: "SigningKey", *, as_json: bool) -> None:
    if as_json:
        print_json({"key": key.public.hex()})
        return
    click.echo(key.public.hex())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise click.ClickException(f"Cannot read {file}: {error.strerror}.") from None


def _listed(file: Path) -> list[bytes]:
    """The identities on the lines of a file; raises `click.BadParameter`, which names the line."""
    keys = []
    for number, line in enumerate(_read(file).split(b"\n"), 1):
        text = line.decode("ascii", errors="replace").strip()
        if text:
            try:
                keys.append(PUBLIC_KEY.convert(text, None, None))
            except click.BadParameter as error:
                raise click.BadParameter(f"Line {number} of {file}: {error.message}", param_hint="--from") from None
    return keys
