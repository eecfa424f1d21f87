"""Results made up for tests of the report, and what a page and a terminal show of them."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from typing import Any

import numpy as np
from rich.console import Console

from federation.evaluation.metrics import UserRanks, device_results, routing_result
from federation.report import print_methods

Results = dict[str, Any]
MODE = "open: updates visible to the server"


def block(devices: int = 6, seed: int = 0) -> Results:
    rng = np.random.default_rng(seed)
    names = [f"device-{number}" for number in range(devices)]
    ranks = {name: tuple(map(int, rng.integers(0, 4, 9))) for name in names}
    users = [
        UserRanks(user=n, baseline=ranks[n], personal=tuple(max(1, r - 1) if r else 0 for r in ranks[n])) for n in names
    ]
    found = routing_result(users, rng=rng, extra={"most_frequent": ranks, "local": ranks}, draws=50)
    return found | {"devices": device_results(users, memories=dict.fromkeys(names, 40))}


def common(*, generated: bool) -> Results:
    return {
        "title": "generated population" if generated else "requests.jsonl",
        "generated": generated,
        "mode": MODE,
        "command": "tacit demo",
        "version": "0.1.0",
        "config": {"devices": 6, "strategy": "fedadam", "encoder": "all-MiniLM-L6-v2", "clip_norm": 1.0},
    }


def run_results(*, generated: bool = True) -> Results:
    results = common(generated=generated) | block()
    results["rounds"] = [
        {"round": n, "accuracy": 0.2 + n / 10, "replies": 4 * (n > 0), "failures": n // 2, "sent_bytes": 4000 * n}
        | {"received_bytes": 5000 * n}
        for n in range(4)
    ]
    results["bytes"] = {"sent_per_device": 12_000.0, "received_per_device": 15_000.0}
    because = [{"text": "the usual, extra olives", "similarity": 0.66}]
    suggestion = {"label": "mum's kitchen", "score": 0.7, "source": "personal", "private": True, "because": because}
    example = {"text": "dinner please", "truth": "mum's kitchen", "global": "pizza", "suggestions": [suggestion]}
    results["examples"] = [example] if generated else []
    return results


def evaluation_results(*, generated: bool = False, alphas: tuple[float | None, ...] = (0.05, 1.0)) -> Results:
    blocks = [{"alpha": alpha} | block(seed=seed) for seed, alpha in enumerate(alphas)]
    return common(generated=generated) | {"kind": "evaluation", "blocks": blocks}


class Page(HTMLParser):
    """Collects what a page holds, for the tests to judge."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]


def printed(results: Results, *, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    print_methods(results, Console(file=stream, width=width, no_color=True))
    stream.flush()
    return raw.getvalue().decode(encoding)
