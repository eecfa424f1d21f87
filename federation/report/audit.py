"""The report of `tacit audit`: audit.json, and a page with each attack's figure, limit and verdict."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from federation.report import parts
from federation.report.page import FILE_NAME as PAGE
from federation.report.page import framed
from federation.report.results import write_file
from federation.report.words import count

FILE_NAME = "audit.json"
ABOUT = {
    "gradient inversion": "A server that sends a model and a learning rate of its choice reads updates and sums: "
    "texts' vectors as rows over their biases, labels by what it knows of texts with each.",
    "canary clients": "Devices with updates of full length, in or out by a coin: how well the coin is guessed from a "
    "sum bounds ε from below, and the two bells of scores estimate it.",
    "membership inference": "Who took part, from the released model, with all updates and many releases known.",
    "malicious server": "Each lie that the protocol lists, told to devices of the running code.",
    "the wire": "Secrets planted in memories, labels, names and exceptions, looked for in every frame in all their "
    "forms; what left against what the ledgers say.",
    "secrets asked for": "A device's secrets asked of another device, of its locked store, for another purpose.",
}


def write_audit_report(results: Mapping[str, Any], folder: Path) -> Path:
    """Write ``folder/audit.json`` and ``folder/report.html``, whole or not at all; return the page's path.

    Raises `FederationError` if the disk refuses a file.
    """
    content = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(folder / FILE_NAME, content)
    return write_file(folder / PAGE, render_audit(results))


def render_audit(results: Mapping[str, Any]) -> str:
    """Return the page of an audit."""
    audits, breaches = results["audits"], results["breaches"]
    said = "No finding is a breach." if not breaches else f"{count(breaches, 'finding')} above the limit."
    how = "quick" if results["quick"] else "full"
    tiles = [(str(len(audits)), "findings"), (str(breaches), "breaches"), (f"{results['seconds']:.0f} s", f"{how} run")]
    body = [
        '<p class="soft">Tacit · audit</p><h1>What attacks on the running code found</h1>',
        f"<pre>$ {parts.foreign(results['command'])}</pre><p>{escape(said)}</p>",
        '<ul class="tiles">'
        + "".join(f"<li><b>{escape(figure)}</b><span>{escape(what)}</span></li>" for figure, what in tiles)
        + "</ul>",
    ]
    for audit, mine in by_audit(audits).items():
        body.append(f"<h2>{escape(audit.capitalize())}</h2><p>{escape(ABOUT.get(audit, ''))}</p>")
        body.append(parts.table(("Finding", "Figure", "At most", "Verdict"), [_row(one) for one in mine]))
    body.append(
        "<p>A finding without a limit is reported alone: what a server could see where nothing is promised. "
        "docs/audit.md says what each attack can see and what not.</p>"
    )
    return framed("audit", "\n".join(body))


def by_audit(audits: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the findings of each audit, in order; a finding's name begins with its audit's."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in audits:
        found.setdefault(one["name"].split(": ")[0], []).append(one)
    return found


def cells(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return a finding's own name, figure, limit and verdict as a person reads them."""
    name = one["name"].split(": ", 1)[-1]
    if one["limit"] is None:
        return name, _number(one["figure"]), "–", "reported"
    return name, _number(one["figure"]), _number(one["limit"]), one["verdict"]


def _row(one: Mapping[str, Any]) -> list[str]:
    name, figure, limit, verdict = cells(one)
    what = f"{parts.foreign(name)}<br><small>{parts.foreign(one['note'])}</small>"
    said = f"<strong>{escape(verdict)}</strong>" if verdict == "breach" else escape(verdict)
    return [what, escape(figure), escape(limit), said]


def _number(value: float | None) -> str:
    if value is None:
        return "∞"
    return str(int(value)) if float(value).is_integer() else f"{value:.3f}"
