"""The page's parts as HTML: each takes results that passed `check_results` and escapes all that came from data."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from federation.report.pictures import Picture
from federation.report.words import (
    CALIBRATION,
    GENERATED,
    GRADED,
    HURT,
    METHODS,
    accounted,
    bytes_of,
    cost_sentence,
    count,
    epsilon,
    finer,
    finer_columns,
    gain_sentence,
    method_rows,
    plain,
    points,
    privacy_sentence,
    refused_sentence,
    scope_rows,
    scope_sentence,
    share,
    size,
    versus_sentence,
    what_left_sentence,
)

Results = Mapping[str, Any]


def foreign(text: object) -> str:
    """Escape text that came from data; its own direction of writing ends where it ends."""
    return f"<bdi>{escape(plain(text))}</bdi>"


def banner(results: Results) -> str:
    """Say at the top that the people are invented; nothing for real data."""
    if not results["generated"]:
        return ""
    return (
        f'<p class="generated" role="note"><strong>Data: {GENERATED}.</strong> These people and their requests are '
        "invented by a seeded program. The figures show that the parts work together; they say nothing about real "
        "people.</p>"
    )


def undone(results: Results) -> str:
    """Say at the top which rounds the server undid; nothing where it undid none."""
    told = refused_sentence(results["rounds"])
    return f'<p role="alert"><strong>{escape(told)}</strong></p>' if told else ""


def head(results: Results, what: str) -> str:
    """Return the title, the mode and the command that made the results."""
    title = str(results["title"])
    if title == GENERATED:
        title = title.capitalize()
    return (
        f'<p class="soft">Tacit · {escape(what)}</p><h1>{foreign(title)}</h1>'
        f"<p>Mode: <strong>{foreign(results['mode'])}</strong></p><pre>$ {foreign(results['command'])}</pre>"
    )


def tiles(block: Results, results: Results) -> str:
    """Return the three or four figures to remember."""
    personal = block["methods"]["personal"]
    mean, low, high = block["gain"]["accuracy"]
    entries = [
        (
            share(personal["accuracy"]),
            f"accuracy, personalized; global {share(block['methods']['global']['accuracy'])}",
        ),
        (points(mean), f"points gained; 95% interval {points(low)} to {points(high)}"),
        (share(personal["hurt_significant"]), "of devices significantly hurt"),
    ]
    if "privacy" in block:
        its = block["privacy"]
        at = "" if its["delta"] is None else f", δ = {its['delta']:g}"
        figures = f"ε {epsilon(its['eps_server'])} · {epsilon(its['eps_released'])}"
        entries.append((figures, f"against the server · of the released model{at}"))
    sent = bytes_of(block, results).get("sent_per_device")
    if sent is not None:
        entries.append((size(sent), "sent by each device, all rounds together"))
    items = "".join(f"<li><b>{escape(figure)}</b><span>{escape(what)}</span></li>" for figure, what in entries)
    return f'<ul class="tiles">{items}</ul>'


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    best: int = -1,
    scroll: bool = False,
    long: bool = False,
) -> str:
    """Return a table; cells are HTML already, the first of each row is its heading, row ``best`` is set in bold.

    With ``scroll`` it is no higher than a part of the page, with ``long`` its cells are sentences.
    """
    columns = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    lines = []
    for number, (first, *cells) in enumerate(rows):
        mark = ' class="best"' if number == best else ""
        lines.append(
            f'<tr{mark}><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    about = f"<caption>{escape(caption)}</caption>" if caption else ""
    where = "wide" + " scroll" * scroll + " long" * long
    # The tab stop lets a keyboard scroll what is too wide or too long.
    return (
        f'<div class="{where}" tabindex="0"><table>{about}<thead><tr>{columns}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def methods_table(block: Results, results: Results, *, caption: str = "") -> str:
    """Return the methods with accuracy, interval, MRR, shares hurt, worst tenth and bytes sent, and what they mean."""
    rows, names, columns = [], [], finer_columns(block)
    for name, figures, sent in method_rows(block, bytes_of(block, results).get("sent_per_device")):
        low, high = figures["interval"]
        names.append(name)
        rows.append(
            [
                escape(METHODS[name]),
                f"{share(figures['accuracy'])} <small>{100 * low:.1f}–{100 * high:.1f}</small>",
                f"{figures['mrr']:.3f}",
                share(figures.get("hurt")),
                share(figures.get("hurt_significant")),
                share(figures["worst_tenth"]),
                *(finer(figures, key) for key, _ in columns),
                size(sent),
            ]
        )
    hurt = ["Hurt", "Hurt, signifi\u00adcantly"]
    finest = [heading for _, heading in columns]
    headings = ["Method", "Accuracy, 95% interval", "MRR", *hurt, "Worst tenth", *finest, "Sent per device"]
    against = versus_sentence(block)
    against = f"{against}. " if against else ""
    both = privacy_sentence(block)
    above = f"<p><strong>{escape(both)}</strong></p>" if both else ""
    details = f" Accounted: {escape(accounted(block))}." if accounted(block) else ""
    return (above + table(headings, rows, caption=caption, best=names.index("personal"))) + (
        f'<p class="soft">Gain of the personalized over the global model: <strong>{gain_sentence(block)}</strong>, '
        f"over {count(block['users'], 'user')} and {count(block['rows'], 'test row')}, by bootstrap over users. "
        f"{escape(against)}"
        f"{HURT}{f' {CALIBRATION}' if 'ECE' in finest else ''}{f' {GRADED}' if 'Any' in finest else ''}"
        f"{details}</p>"
    )


def scope_table(block: Results) -> str:
    """Return how well requests out of scope were told from others; nothing where none were asked."""
    if "out_of_scope" not in block:
        return ""
    scope = block["out_of_scope"]
    rows = [[escape(title), *figures] for title, *figures in scope_rows(scope)]
    headings = ["Score", "AUROC, 95% interval", "False refusals", "Refused, out of scope"]
    return (
        "<h3>Saying that it does not know</h3>"
        + table(headings, rows, best=len(rows) - 1)
        + f'<p class="soft">{escape(scope_sentence(scope))}</p>'
    )


def figure(picture: Picture | None) -> str:
    """Return a picture with its alternative text and caption, one for a light and one for a dark page."""
    if picture is None:
        return ""
    light, dark = (base64.b64encode(png).decode("ascii") for png in (picture.light, picture.dark))
    text = escape(f"{picture.title}. {picture.text}")
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
        f'<img src="data:image/png;base64,{light}" alt="{text}"></picture>'
        f"<figcaption>{escape(picture.text)}</figcaption></figure>"
    )


def cost(results: Results) -> str:
    """Say what privacy costs the people of a comparison of modes; nothing for one mode."""
    sentence = cost_sentence(results)
    return f"<p><strong>{escape(sentence)}</strong></p>" if sentence else ""


def ledger(results: Results) -> str:
    """Return one device's ledger; nothing where the results have none."""
    if "ledger" not in results:
        return ""
    its = results["ledger"]
    rows = [
        [str(one["number"]), foreign(one["kind"]), "<br>".join(map(foreign, str(one["words"]).split("\n")))]
        for one in its["entries"]
    ]
    return (
        f"<h2>The ledger of {foreign(its['device'])}, in private mode</h2><p>Each device notes what leaves it before "
        f"it leaves, sealed, for its owner to read. Each ε stands at δ = {its['delta']:g}.</p>"
        f'{table(["Entry", "Kind", "What"], rows, long=True)}<p class="soft">The chain ends in '
        f"<code>{foreign(its['chain'])}</code>.</p>"
    )


def what_left(results: Results, *, heading: str = "What left the devices") -> str:
    """Say what the devices sent, in which mode, and how much of it."""
    sent, received = (
        results.get("bytes", {}).get("sent_per_device"),
        results.get("bytes", {}).get("received_per_device"),
    )
    amounts = "" if sent is None else f"<p>On average a device sent {size(sent)} and received {size(received)}.</p>"
    replies = sum(one["replies"] for one in results.get("rounds", []))
    failures = sum(one["failures"] for one in results.get("rounds", []))
    if replies or failures:
        total = sum(one["sent_bytes"] for one in results["rounds"])
        each = f", about {size(total / replies)} each" if replies else ""
        noun = "reply" if replies == 1 else "replies"
        amounts += f"<p>{replies:,} {noun} in all{each}; {count(failures, 'failure')}.</p>"
    sentence = what_left_sentence(results)
    said = f"<p>{escape(sentence)}</p>" if sentence else ""
    return f"<h2>{escape(heading)}</h2>{said}<p>Mode: {foreign(results['mode'])}.</p>{amounts}"


def rounds_table(rounds: Sequence[Results]) -> str:
    """Return the rounds, folded away; where the server undid some, with why."""
    some_undone = any("refused" in one for one in rounds)
    rows = [
        [
            str(one["round"]),
            share(one["accuracy"]),
            str(one["replies"]),
            str(one["failures"]),
            size(one["sent_bytes"]),
            size(one["received_bytes"]),
            *([foreign(one.get("refused", ""))] if some_undone else []),
        ]
        for one in rounds
    ]
    headings = ["Round", "Accuracy, global", "Replies", "Failures", "Sent", "Received"]
    headings += ["Undone"] if some_undone else []
    return _folded(f"All {count(len(rows), 'round')}", table(headings, rows, scroll=True)) if rows else ""


def devices_table(devices: Sequence[Results]) -> str:
    """Return the devices, best gain first, folded away."""
    ordered = sorted(devices, key=lambda one: (one["gain"] is None, -(one["gain"] or 0), one["device"]))
    rows = [
        [
            foreign(one["device"]),
            f"{one['memories']:,}",
            f"{one['rows']:,}",
            share(one["global"]),
            share(one["personal"]),
            points(one["gain"]),
        ]
        for one in ordered
    ]
    headings = ["Device", "Memories", "Test rows", "Global", "Personalized", "Gain, points"]
    return _folded(f"All {count(len(rows), 'device')}", table(headings, rows, scroll=True)) if rows else ""


def examples(results: Results) -> str:
    """Return example suggestions and the memories that explain them."""
    found = results.get("examples", [])
    if not found:
        return ""
    return (
        f'<h2>Example suggestions</h2><p class="soft">From the {GENERATED}. Under each suggestion stand the memories '
        f"on the device that speak for it.</p>{''.join(map(_example, found))}"
    )


def _example(example: Results) -> str:
    lines = []
    for one in example["suggestions"]:
        tags = f' <span class="tag">{foreign(one["source"])}</span>'
        tags += ' <span class="tag">private label: stays on the device</span>' if one["private"] else ""
        because = "".join(
            f"<li>“{foreign(memory['text'])}” <small>similarity {memory['similarity']:.2f}</small></li>"
            for memory in one["because"]
        )
        right = " ✓" if one["label"] == example["truth"] else ""
        lines.append(
            f"<li><strong>{foreign(one['label'])}</strong>{right} {one['score']:.2f}{tags}"
            + (f"<ul>{because}</ul>" if because else "")
            + "</li>"
        )
    return (
        f'<article class="example"><blockquote>“{foreign(example["text"])}”</blockquote>'
        f'<p class="soft">This person wanted <strong>{foreign(example["truth"])}</strong>; the global model alone says '
        f"<strong>{foreign(example['global'])}</strong>.</p><ol>{''.join(lines)}</ol></article>"
    )


def made_with(results: Results) -> str:
    """Return the command, the versions and the configuration."""
    entries = {"tacit": results["version"], **results.get("versions", {}), **results.get("config", {})}
    lines = "".join(f"<dt>{foreign(name)}</dt><dd>{foreign(_shown(value))}</dd>" for name, value in entries.items())
    return (
        "<h2>How it was made</h2><dl>"
        f"<dt>command</dt><dd><code>{foreign(results['command'])}</code></dd>"
        f"<dt>data</dt><dd>{foreign(results['title'])}</dd>{lines}</dl>"
    )


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"
