"""The ledger as a file for others: each entry as it was written, with the chain after it, and what it means as ε.

The chain after an entry is SHA-256(chain before it ‖ SHA-256(u32(length) ‖ kind ‖ u32(length) ‖ content)), with lengths
big-endian and 32 zero bytes before the first. So no key is needed to see that a file is whole: none of its entries was
changed, left out or moved, up to the chain at its end. Whoever writes the whole file anew can make another chain. That
this one is the device's, its owner can tell, whose store holds the chain sealed, and everybody who has its end from
elsewhere: from the owner, or from an earlier file, which a later one goes on from.

>>> text = statement([(1, "rounds", b'{"mode": "private"}')])
>>> checked(text).count
1
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import BudgetError, LedgerError
from engine.owner.account import Contribution
from engine.owner.rho import DELTA, epsilon_of
from store.tables.ledger import chain_after

FORMAT = "tacit-ledger-1"
START = bytes(32)
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What an exported ledger says: its entries (number, kind, content) and the chain (32 bytes) after each."""

    entries: tuple[tuple[int, str, bytes], ...]
    chains: tuple[bytes, ...]

    @property
    def count(self) -> int:
        """The number of entries."""
        return len(self.entries)

    @property
    def end(self) -> bytes:
        """The chain at the end."""
        return self.chains[-1] if self.chains else START

    def goes_on_from(self, end: bytes) -> bool:
        """Whether the ledger with this ``end`` is the beginning of this one, or all of it."""
        return end == START or end in self.chains


def chains_of(entries: Sequence[tuple[int, str, bytes]]) -> tuple[bytes, ...]:
    """Return the chain (32 bytes) after each of the entries (number, kind, content)."""
    chain, after = START, []
    for _, kind, content in entries:
        chain = chain_after(chain, kind, content)
        after.append(chain)
    return tuple(after)


def statement(entries: Sequence[tuple[int, str, bytes]], *, delta: float = DELTA) -> str:
    """Return the entries (number, kind, content) of a ledger, all from the first on, as the text of a file in JSON.

    A ``content`` is text, or, where it is no UTF-8, ``{"base64": …}``. An entry about what was sent has ``epsilon``,
    what it cost by itself, ``epsilon_spent``, all until then, and ``epsilon_left``, at ``delta`` and to six decimals;
    ``null`` where nothing bounds it, no account was kept or there was no limit. These follow from the content.
    Raises ValueError unless 0 < delta < 1.
    """
    epsilon_of(0.0, delta)
    chains = chains_of(entries)
    told = [
        {"number": number, "kind": kind, "content": _as_text(content), "chain": chain.hex()}
        | _as_epsilon(kind, content, delta)
        for (number, kind, content), chain in zip(entries, chains, strict=True)
    ]
    end = (chains[-1] if chains else START).hex()
    return json.dumps({"format": FORMAT, "delta": delta, "chain": end, "entries": told}, indent=1) + "\n"


def checked(text: str | bytes) -> Statement:
    """Return what a file of `statement` says, once it is seen to be as it was written. Raises `LedgerError`."""
    try:
        told = json.loads(text)
        if told["format"] != FORMAT:
            raise LedgerError(f"This ledger has another format than {FORMAT!r}: use the release that wrote it.")
        entries = tuple((int(one["number"]), str(one["kind"]), _as_bytes(one["content"])) for one in told["entries"])
        again = statement(entries, delta=float(told["delta"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise LedgerError(
            "This is no ledger as `tacit device ledger --export` writes it, or it is cut short."
        ) from None
    chains = chains_of(entries)
    for at, (one, chain) in enumerate(zip(told["entries"], chains, strict=True), 1):
        if one.get("chain") != chain.hex() or entries[at - 1][0] != at:
            raise LedgerError(f"Entry {at} is not what was written: it, or one before it, was changed or left out.")
    if told["chain"] != (chains[-1] if chains else START).hex():
        raise LedgerError("The ledger ends elsewhere than it says: entries at its end were left out or added.")
    if again.encode() != (text.encode() if isinstance(text, str) else text):
        raise LedgerError("The file was edited: something beside the entries' contents is not what follows from them.")
    return Statement(entries=entries, chains=chains)


def _as_text(content: bytes) -> str | dict[str, str]:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode("ascii")}


def _as_bytes(content: Any) -> bytes:
    if isinstance(content, str):
        return content.encode("utf-8")
    return base64.b64decode(content["base64"], validate=True)


def _as_epsilon(kind: str, content: bytes, delta: float) -> dict[str, float | None]:
    """What an entry about something sent means as ε; nothing of others, and of an app's under the same name."""
    if kind != "sent":
        return {}
    try:
        one = Contribution.from_bytes(content)
    except BudgetError:
        return {}
    figures = {
        "epsilon": one.epsilon_alone(delta),
        "epsilon_spent": one.epsilon_spent(delta),
        "epsilon_left": one.epsilon_left(delta),
    }
    return {name: None if value is None else round(value, _DIGITS) for name, value in figures.items()}
