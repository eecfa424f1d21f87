"""The commands of `tacit device` about whom and what its owner allows: consent, publisher."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from federation.cli.console import print_json
from federation.cli.device_shared import WordsType, json_option, opened, path_argument, plain, print_table
from federation.cli.unlock import Unlocking, unlock_options

KEY_BYTES = 32


class PublicKeyType(click.types.StringParamType):
    """An Ed25519 public key: 64 hexadecimal digits."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the key's bytes."""
        if isinstance(value, bytes):
            return value
        try:
            key = bytes.fromhex(str(value)) if str(value).isalnum() else b""
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            self.fail(f"{value!r} is no public key: it has {2 * KEY_BYTES} hexadecimal digits.", param, ctx)
        return key


PUBLIC_KEY = PublicKeyType()


@click.command()
@path_argument
@click.option("--allow", type=WordsType(), multiple=True, metavar="PURPOSE", help="Give consent to it (again).")
@click.option("--withdraw", type=WordsType(), multiple=True, metavar="PURPOSE", help="Withdraw consent to it.")
@json_option
@unlock_options
def consent(path: Path, allow: Sequence[str], withdraw: Sequence[str], as_json: bool, unlocking: Unlocking) -> None:
    """Show or set for which purposes memories of the device at PATH may be read.

    Keeping a memory for a purpose is consent to read it for that purpose, until it is withdrawn. From then on no memory
    is read for it: nothing is personalized by it and no update to a federated round is made from it. Updates that wait
    to leave are dropped. Rounds are about the purposes "personalization" and "choice".
    """
    from engine.choices.history import CHOICE
    from engine.owner.consent import PERSONALIZATION

    both = sorted(set(allow) & set(withdraw))
    if both:
        raise click.UsageError(f"Give --allow {both[0]!r} or --withdraw {both[0]!r}, not both.")
    with opened(path, unlocking) as device:
        with device.store.transaction(witness=bool(allow or withdraw)):
            for purpose in allow:
                device.allow_purpose(purpose)
            for purpose in withdraw:
                device.withdraw_purpose(purpose)
        withdrawn = device.withdrawn_purposes
        memories = Counter(memory.purpose for memory in device.memories())
    purposes = sorted({*memories, *withdrawn, PERSONALIZATION, CHOICE})
    if as_json:
        shown = [{"purpose": name, "consent": name not in withdrawn, "memories": memories[name]} for name in purposes]
        print_json({"purposes": shown})
        return
    rows = [(plain(name), "withdrawn" if name in withdrawn else "given", str(memories[name])) for name in purposes]
    print_table(("purpose", "consent", "memories"), rows, right=("memories",))


@click.command()
@path_argument
@click.argument("key", type=PUBLIC_KEY, metavar="[KEY]", required=False)
@click.option("--replaces", type=PUBLIC_KEY, metavar="OLD", help="The key that is trusted so far, to trust another.")
@json_option
@unlock_options
def publisher(path: Path, key: bytes | None, replaces: bytes | None, as_json: bool, unlocking: Unlocking) -> None:
    """Show or set whose models the device at PATH takes: those signed by the publisher with this public KEY.

    From then on `tacit device model --use` needs the file's signature beside it (FILE.sig, by `tacit publisher sign`),
    and private rounds the list of devices that this publisher signed. The model in use stays, as does the one before.
    """
    if key is None and replaces is not None:
        raise click.UsageError("Name the KEY to trust instead of the one that it replaces.")
    with opened(path, unlocking) as device:
        if key is not None:
            device.trust_publisher(key, replacing=replaces)
        trusted = device.publisher
    if as_json:
        print_json({"publisher": None if trusted is None else trusted.hex()})
        return
    if trusted is None:
        click.echo("No publisher is trusted: models are taken from anybody, and no private rounds.")
        return
    click.echo(f"Trusts models signed by {trusted.hex()}.")
