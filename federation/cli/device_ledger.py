"""The commands of `tacit device` about the ledger: ledger, check-ledger."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from federation.cli.console import print_json
from federation.cli.device_rounds import delta_option, epsilon_in_words, limits_in_words, rounds_in_words
from federation.cli.device_shared import json_option, opened_store, path_argument, plain, plural, print_table, when
from federation.cli.unlock import Unlocking, unlock_options

if TYPE_CHECKING:
    from engine.owner.account import Limits

HASH_SHOWN = 12


@click.command()
@path_argument
@click.option("--export", type=click.Path(path_type=Path), metavar="FILE", help="Write it to the new FILE, as JSON.")
@delta_option
@json_option
@unlock_options
def ledger(path: Path, export: Path | None, delta: float | None, as_json: bool, unlocking: Unlocking) -> None:
    """List what left the device at PATH, what its owner allowed and what was forgotten, oldest first.

    What was sent: when, to whom, in which round and mode, for which purpose, how many bytes and their SHA-256 (whole
    with --json), to which model; what it cost by itself, all that was spent then and what was left, as ε.

    The entries are chained: one that was changed, removed or put back shows. The last line is where the chain ends.
    FILE has each entry as it was written, with the chain after it, in the clear; others can check it without a key, by
    `tacit device check-ledger FILE`.
    """
    from engine.owner.rho import DELTA
    from engine.owner.statement import statement
    from store.outside.archive import write_new

    at = DELTA if delta is None else delta
    with opened_store(path, unlocking) as store:
        entries = store.entries()
    text = statement(entries, delta=at)
    if export is not None:
        write_new(export, text.encode())
    told = told_entries(text, entries)
    shown = told["entries"]
    if as_json:
        print_json(told)
        return
    if not shown:
        click.echo("The ledger is empty: nothing has left this device, and nothing was forgotten.")
        return
    if export is None:
        rows = [
            (str(one["number"]), _moment(one.get("time")), plain(one["kind"]), _in_words(one["kind"], one, at))
            for one in shown
        ]
        print_table(("entry", "time", "kind", ""), rows, right=("entry",))
        click.echo(f"The chain ends in {told['chain']}.")
        return
    count = "1 entry" if len(shown) == 1 else f"{len(shown)} entries"
    click.echo(f"Wrote {count} to {export}, in the clear. The chain ends in {told['chain']}.")


@click.command(name="check-ledger")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--end", metavar="HASH", help="Where the chain must end, as the device's owner says.")
@click.option(
    "--earlier",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An earlier export that FILE must go on from.",
)
@json_option
def check_ledger(file: Path, end: str | None, earlier: Path | None, as_json: bool) -> None:
    """Check FILE, which `tacit device ledger PATH --export` wrote, without any key.

    It is whole if none of its entries was changed, left out or moved, and what it says of ε follows from them. Whoever
    can write a whole FILE anew can chain another story: only where its chain ends, known from the device's owner
    (--end) or from an earlier export (--earlier), tells that this is the story of that device.
    """
    from engine.errors import LedgerError
    from engine.owner.statement import checked

    told = checked(_read(file))
    if end is not None and told.end.hex() != end.strip().lower():
        raise LedgerError(f"The ledger in {file} is whole, but its chain ends in {told.end.hex()}: it is another one.")
    if earlier is not None and not told.goes_on_from(checked(_read(earlier)).end):
        raise LedgerError(f"The ledger in {file} is whole, but does not go on from that in {earlier}: one is another.")
    sent = sum(kind == "sent" for _, kind, _ in told.entries)
    if as_json:
        print_json({"entries": told.count, "sent": sent, "chain": told.end.hex()})
        return
    count = "1 entry" if told.count == 1 else f"{told.count} entries"
    click.echo(f"Whole: {count}, {sent} of them about something sent. The chain ends in {told.end.hex()}.")
    if end is None and earlier is None:
        click.echo("That it is a device's own, only its end can tell: compare it with `tacit device ledger PATH`.")


def told_entries(text: str, entries: Sequence[tuple[int, str, bytes]]) -> dict[str, Any]:
    """What a ledger's statement ``text`` says of its ``entries`` (number, kind, content), for a program."""
    told = json.loads(text)
    shown = [_as_fields(one, content) for one, (_, _, content) in zip(told["entries"], entries, strict=True)]
    return {"entries": shown, "delta": told["delta"], "chain": told["chain"]}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise click.ClickException(f"Cannot read {file}: {error.strerror}.") from None


def _as_fields(one: dict[str, Any], content: bytes) -> dict[str, Any]:
    """An entry's own fields with its number, kind, chain and ε: what an app wrote must not pass for one of these."""
    ours = {name: value for name, value in one.items() if name != "content"}
    return {"number": one["number"]} | _fields(content) | ours


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


def _in_words(kind: str, fields: Mapping[str, Any], delta: float) -> str:
    try:
        match kind:
            case "sent":
                to = (
                    f"to {plain(fields['to'])}, round {fields['round']}, mode {fields['mode']}, for {fields['purpose']}"
                )
                sent, came = fields["sent"][:HASH_SHOWN], fields["model"][:HASH_SHOWN]
                again = "the same again: " if fields["again"] else ""
                what = f"{again}{fields['size_bytes']:,} bytes {sent}…, to model {came}…"
                return f"{to}\n{what}\n{cost_in_words(fields, delta)}"
            case "consent":
                return f"{plain(fields['purpose'])}: {'given' if fields['granted'] else 'withdrawn'}"
            case "rounds":
                return rounds_in_words(fields["mode"])
            case "limits":
                return limits_in_words(limits_of(fields))
            case "publisher":
                before = f", before {fields['before'][:HASH_SHOWN]}…" if fields["before"] else ""
                return f"trusts models signed by {fields['key'][:HASH_SHOWN]}…{before}"
            case "receipt":
                memories = plural(len(fields["ids"]), "memory")
                return f"{fields['what']}: {memories} forgotten, epoch {fields['epoch']} began"
    except (KeyError, TypeError, ValueError):
        pass  # An app's own, under a name of the device's.
    # What is ours beside what an app wrote says nothing more here.
    ours = ("time", "number", "kind", "chain", "epsilon", "epsilon_spent", "epsilon_left")
    return plain(", ".join(f"{name} {value}" for name, value in fields.items() if name not in ours))


def cost_in_words(fields: Mapping[str, Any], delta: float) -> str:
    """Return what something sent cost."""
    alone, spent, left = (fields[name] for name in ("epsilon", "epsilon_spent", "epsilon_left"))
    costs = "no ε: nothing bounds what it tells" if alone is None else f"ε {epsilon_in_words(alone)}"
    costs += "" if spent is None else f", {epsilon_in_words(spent)} in all by then"
    costs += "" if left is None else f", {epsilon_in_words(left)} left"
    return f"{costs} (δ = {delta:g})" if alone is not None or spent is not None else costs


def limits_of(fields: Mapping[str, Any]) -> "Limits":
    """Return the limits that an entry about them sets."""
    from engine.owner.account import Limits

    names = ("lifetime", "week", "rho", "rho_week")
    return Limits(**{name: fields.get(name) for name in names})
