"""The commands of `tacit device` about federated rounds: allow-rounds, budget, ledger."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from federation.cli.console import print_json
from federation.cli.device_shared import (
    json_option,
    opened,
    opened_store,
    path_argument,
    plain,
    plural,
    print_table,
    when,
)
from federation.cli.unlock import Unlocking, unlock_options
from federation.rounds.config import MODE_NOTICE

_HASH_SHOWN = 12
ANY = "any"


def _as_count(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | str | None:
    """A whole number from 0 on, or the word for no limit."""
    if value is None or value == ANY:
        return value
    if not (value.isascii() and value.isdigit() and len(value) < 16):
        raise click.BadParameter(f"{value!r} is neither a whole number from 0 on nor '{ANY}'.")
    return int(value)


@click.command(name="allow-rounds")
@path_argument
@click.argument("mode", type=click.Choice(["open", "none"]))
@json_option
@unlock_options
def allow_rounds(path: Path, mode: str, as_json: bool, unlocking: Unlocking) -> None:
    """Allow federated rounds in a MODE, or none, which is the default of a new device.

    In the mode "open" the server sees this device's clipped updates. Texts, labels and vectors never leave.
    """
    allowed = None if mode == "none" else mode
    with opened(path, unlocking) as device:
        device.allow_rounds(allowed)
    if as_json:
        print_json({"allowed_rounds": allowed})
        return
    click.echo(f"Federated rounds: {rounds_in_words(allowed)}.")


def rounds_in_words(mode: str | None) -> str:
    """Return what the owner allowed."""
    return "none allowed" if mode is None else f"allowed ({MODE_NOTICE})"


@click.command()
@path_argument
@click.option("--lifetime", callback=_as_count, metavar="N|any", help="Allow so many contributions in all.")
@click.option("--week", callback=_as_count, metavar="N|any", help="Allow so many contributions a week.")
@json_option
@unlock_options
def budget(path: Path, lifetime: int | str | None, week: int | str | None, as_json: bool, unlocking: Unlocking) -> None:
    """Show or set how many contributions to federated rounds the device at PATH may make.

    A contribution counts before it leaves, even if the round then fails; an older copy of the device gets none back.
    At its limit the device abstains, and the round goes on without it. Weeks begin on Thursday at 0:00 UTC.
    """
    from engine.owner.account import Account, Limits

    with opened_store(path, unlocking) as store:
        account, now = Account(store), time.time()
        if lifetime is not None or week is not None:
            with store.transaction():
                before = account.limits
                wished = Limits(lifetime=_wished(lifetime, before.lifetime), week=_wished(week, before.week))
                account.limit(wished, now=now)
        limits, spent = account.limits, account.spent
    terms = (
        ("in all", "lifetime", spent.lifetime, limits.lifetime),
        ("this week", "week", spent.in_week_at(now), limits.week),
    )
    if as_json:
        print_json({name: {"given": given, "allowed": allowed} for _, name, given, allowed in terms})
        return
    rows = [(term, str(given), _limit_in_words(allowed)) for term, _, given, allowed in terms]
    print_table(("contributions", "given", "allowed"), rows, right=("given", "allowed"))


def _limit_in_words(limit: int | None) -> str:
    return ANY if limit is None else str(limit)


def _wished(wish: int | str | None, before: int | None) -> int | None:
    if wish is None:
        return before
    return None if isinstance(wish, str) else wish


@click.command()
@path_argument
@json_option
@unlock_options
def ledger(path: Path, as_json: bool, unlocking: Unlocking) -> None:
    """List what left the device at PATH, what its owner allowed and what was forgotten, oldest first.

    The entries are chained: one that was changed, removed or put back shows. Hashes are SHA-256, whole with --json.
    """
    with opened_store(path, unlocking) as store:
        entries = store.entries()
    told = [(number, kind, _fields(content)) for number, kind, content in entries]
    if as_json:
        # What an app wrote must not pass for another kind of entry.
        print_json(
            {
                "entries": [
                    {"number": number} | fields | {"number": number, "kind": kind} for number, kind, fields in told
                ]
            }
        )
        return
    if not told:
        click.echo("The ledger is empty: nothing has left this device, and nothing was forgotten.")
        return
    rows = [
        (str(number), _moment(fields.get("time")), plain(kind), _in_words(kind, fields))
        for number, kind, fields in told
    ]
    print_table(("entry", "time", "kind", ""), rows, right=("entry",))


def _fields(content: bytes) -> dict[str, Any]:
    """What an entry says; of one that an app wrote in a form of its own, only how long it is."""
    from engine.text import is_unicode

    try:
        fields = json.loads(content)
        if isinstance(fields, dict) and is_unicode(json.dumps(fields, ensure_ascii=False)):
            return fields
    except (ValueError, RecursionError):
        pass
    return {"size_bytes": len(content)}


def _moment(time_s: object) -> str:
    try:
        return when(float(time_s)) if isinstance(time_s, int | float) else ""
    except OverflowError:
        return ""


def _in_words(kind: str, fields: Mapping[str, Any]) -> str:
    try:
        match kind:
            case "sent":
                to = (
                    f"to {plain(fields['to'])}, round {fields['round']}, mode {fields['mode']}, for {fields['purpose']}"
                )
                sent, came = fields["sent"][:_HASH_SHOWN], fields["model"][:_HASH_SHOWN]
                again = "the same again: " if fields["again"] else ""
                return f"{to}\n{again}{fields['size_bytes']:,} bytes {sent}…, to model {came}…"
            case "consent":
                return f"{plain(fields['purpose'])}: {'given' if fields['granted'] else 'withdrawn'}"
            case "rounds":
                return rounds_in_words(fields["mode"])
            case "limits":
                return f"{_limit_in_words(fields['lifetime'])} in all, {_limit_in_words(fields['week'])} a week"
            case "receipt":
                memories = plural(len(fields["ids"]), "memory")
                return f"{fields['what']}: {memories} forgotten, epoch {fields['epoch']} began"
    except (KeyError, TypeError, ValueError):
        pass  # An app's own, under a name of the device's.
    return plain(", ".join(f"{name} {value}" for name, value in fields.items() if name != "time"))
