"""The commands of `tacit device` that take memories out of a device as a whole, or away: export, import, erase."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from federation.cli.console import print_json
from federation.cli.device_shared import (
    SECONDS,
    WordsType,
    ask_about,
    json_option,
    opened,
    path_argument,
    plural,
    refuse_missing,
    show_what_goes,
)
from federation.cli.unlock import Unlocking, unlock_options

if TYPE_CHECKING:
    from engine.device.device import Device
    from store import Where


@click.command(name="export")
@path_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--recovery-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The archive's key, in FILE; made if missing.",
)
@click.option("--plain-text", is_flag=True, help="Not sealed: one JSON object a line, for anyone to read.")
@json_option
@unlock_options
def export(
    path: Path, file: Path, recovery_file: Path | None, plain_text: bool, as_json: bool, unlocking: Unlocking
) -> None:
    """Write all memories of the device at PATH to FILE, sealed under a recovery key of the archive's own.

    The key is printed once, unless --recovery-file names where it lies. Forgetting does not reach an archive: delete
    it yourself. FILE must not exist.
    """
    from federation.cli.archive_key import key_for_export

    if plain_text and recovery_file is not None:
        raise click.UsageError("A plain export has no key: give --plain-text or --recovery-file.")
    with opened(path, unlocking) as device:
        if plain_text:
            count, shown = device.export_plain(file), None
        else:
            with key_for_export(recovery_file) as (key, shown):
                count = device.export(file, key)
    if as_json:
        print_json({"exported": count, "file": str(file), "sealed": not plain_text, "recovery_key": shown})
        return
    click.echo(f"Exported {plural(count, 'memory')} to {file}{' in the clear' if plain_text else ', sealed'}.")
    if shown is not None:
        click.echo(f"Its recovery key, shown this once: {shown}")
    click.echo("Forgetting does not reach this file.")


@click.command(name="import")
@path_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--recovery-file", type=click.Path(path_type=Path), metavar="FILE", help="The archive's key, in FILE.")
@click.option("--plain-text", is_flag=True, help="FILE is a plain export.")
@json_option
@unlock_options
def import_(
    path: Path, file: Path, recovery_file: Path | None, plain_text: bool, as_json: bool, unlocking: Unlocking
) -> None:
    """Add the memories of an archive to the device at PATH, all or none; they get new ids."""
    from federation.cli.archive_key import key_for_import

    if plain_text and recovery_file is not None:
        raise click.UsageError("A plain export has no key: give --plain-text or --recovery-file.")
    refuse_missing(path)
    key = None if plain_text else key_for_import(recovery_file)
    with opened(path, unlocking, many=True) as device:
        ids = device.import_plain(file) if key is None else device.import_(file, key)
    if as_json:
        print_json({"imported": len(ids), "ids": ids})
        return
    click.echo(f"Imported {plural(len(ids), 'memory')}.")


@click.command()
@path_argument
@click.option("--id", "ids", type=click.IntRange(1), multiple=True, metavar="ID", help="The memory with this id.")
@click.option("--query", type=WordsType(), metavar="TEXT", help="The memories that `search` finds for TEXT.")
@click.option("-k", type=click.IntRange(1), default=5, show_default=True, help="How many of them, with --query.")
@click.option("--scope", type=WordsType(), help="Only of this scope.")
@click.option("--purpose", type=WordsType(), help="Only of this purpose.")
@click.option("--source", type=WordsType(), help="Only of this source.")
@click.option("--since", type=SECONDS, metavar="SECONDS", help="Only from this Unix time on.")
@click.option("--until", type=SECONDS, metavar="SECONDS", help="Only before this Unix time.")
@click.option("--expired", is_flag=True, help="The memories whose time is over.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@unlock_options
def erase(
    path: Path,
    ids: tuple[int, ...],
    query: str | None,
    k: int,
    scope: str | None,
    purpose: str | None,
    source: str | None,
    since: float | None,
    until: float | None,
    expired: bool,
    yes: bool,
    as_json: bool,
    unlocking: Unlocking,
) -> None:
    """Forget for good all memories of the device at PATH that fit; print a receipt.

    What was derived from them, and what they replaced, goes with them. --id and --expired stand alone; the others can
    be combined. No consent is needed to erase.
    """
    from store import Where

    where = Where(scope=scope, purpose=purpose, source=source, after=since, before=until)
    if [bool(ids), expired, query is not None or not where.is_all()].count(True) != 1:
        raise click.UsageError(
            "Say what to erase: --id or --expired alone, or some of --query, --scope, --purpose, --source, --since and "
            "--until."
        )
    if not yes and not (sys.stdin is not None and sys.stdin.isatty()):
        raise click.UsageError("Erasing cannot be undone: add --yes where nobody can be asked.")
    with opened(path, unlocking) as device:
        named = list(dict.fromkeys(ids)) if ids else None
        if query is not None:
            named = [hit.id for hit in device.find_to_erase(query, k, where)]
        receipt = None
        if yes or _agreed(device, named, where, expired=expired):
            if expired:
                receipt = device.expire()
            elif named is not None:
                receipt = device.forget(named)
            else:
                receipt = device.erase(where)
        left = device.count()
    gone = list(receipt.ids) if receipt is not None else []
    if as_json:
        print_json({"forgotten": gone, "memories": left, "receipt": receipt and receipt.as_json()})
        return
    if receipt is None:
        click.echo(f"No memory fits: nothing was erased; {left} left.")
        return
    click.echo(f"Erased {plural(len(gone), 'memory')}; {left} left.")
    click.echo(
        f"Receipt: epoch {receipt.epoch}, root {receipt.root_before.hex()[:16]} to {receipt.root_after.hex()[:16]}."
    )


def _agreed(device: "Device", named: list[int] | None, where: "Where", *, expired: bool) -> bool:
    """Say how many memories would go, list them where they are ``named``, and ask; False where there is none."""
    if named is not None:
        show_what_goes(device, named)
        number = len(named)
    else:
        # As erasing sees them: replaced and expired ones too.
        records = (stored.record for stored in device.store.iter(**asdict(where), history=True))
        now = time.time()
        number = sum(not expired or (record.expires is not None and record.expires <= now) for record in records)
    if number:
        ask_about(f"Erase {plural(number, 'memory')} for good?", "erased")
    return number > 0
