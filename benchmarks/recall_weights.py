"""Fits the shipped weights of the search of memories: `python -m benchmarks.recall_weights FILE… [--check FILE]…`.

Each FILE holds conversations as `tacit evaluate memory` reads them, of a licence under which what is fitted to them may
ship (``docs/data.md``: FriendsQA). From `BY_HAND`, half the way is gone to the weights that are best there by the
likelihood of ``engine/recall/fit.py``: what suits one kind of conversation need not suit the next, and what a FILE says
nothing of, such as dates in a script without any, stays as it was set. What speaks for a memory is never made to speak
against it: a weight of the other sign is 0 at the best. Weights are rounded to two decimals.

Printed are R@5, R@10 and the mean reciprocal rank by hand and by the new weights, with the gain in R@5 and its interval
by bootstrap over conversations: of the files fitted on by weights that the other conversations gave (leave one
conversation out), of files to check by the weights to ship. Options: --check FILE (may be repeated), --json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.encoders.encoder import load_encoder
from engine.recall.features import FEATURES
from engine.recall.fit import Floats, RankedList, fit_weights
from federation.data.conversations import read_conversations
from federation.evaluation.memory import Asked, ask_all, figures_of, rank_by, summary

SHARE_OF_THE_WAY = 0.5
BY_HAND = {
    # The evidence of the memory itself: meaning and words weigh the same, the latter once softly and once by BM25.
    "meaning": 0.5,
    "sense": 0.5,
    "soft": 0.5,
    "words": 0.25,
    # People answer in other words than were asked, next to those words: the surroundings count as much again together.
    "soft_window": 0.5,
    "sense_window": 0.25,
    "phrase_window": 0.5,
    "has_word_window": 0.5,
    "soft_session": 0.5,
    "session_best": 0.5,
    "meaning_before": 0.2,
    "meaning_after": 0.2,
    "answers": 0.3,
    # A question rarely answers one; a long memory says more.
    "asks": -0.5,
    "length": 0.25,
    # Whoever is asked about mostly said it, but may have been told.
    "speaker": 1.0,
    # A date in the question is a filter as good as certain; that a memory has a date or number says less.
    "kept_then": 2.0,
    "kept_soon_after": 1.0,
    "tells_of_then": 1.5,
    "tells_when": 1.0,
    "tells_number": 0.5,
}
"""Weights in round numbers by the reasons given, fitted to nothing."""
START = np.array([BY_HAND[name] for name in FEATURES])


def fitted(asked: Sequence[Sequence[Asked]]) -> Floats:
    """The weights (d,) half the way from `BY_HAND` to those that are best for these questions."""
    lists = [one for its in asked for question in its if (one := question.list()) is not None]
    return np.round(START + SHARE_OF_THE_WAY * (best_of_the_signs(lists) - START), 2)


def best_of_the_signs(lists: Sequence[RankedList]) -> Floats:
    """The weights (d,) that are best for these lists, each of its sign in `BY_HAND` or 0."""
    kept = np.ones(len(START))
    while True:
        weights = fit_weights([replace(one, features=one.features * kept) for one in lists], prior=START * kept)
        if not (wrong := weights * START < 0).any():
            return weights
        kept[wrong] = 0.0


def without_each(asked: Sequence[Sequence[Asked]]) -> list[Floats]:
    """For each conversation the weights fitted on all others."""
    return [fitted([its for at, its in enumerate(asked) if at != left_out]) for left_out in range(len(asked))]


def compared(title: str, asked: Sequence[Sequence[Asked]], weights: Sequence[Floats]) -> dict[str, Any]:
    """Figures by hand and by ``weights``, one for each conversation, and what these gain."""
    rank_by(asked, [START] * len(asked), "by hand")
    rank_by(asked, weights, "fitted")
    before, after = ([np.array([figures_of(q, name) for q in its]) for its in asked] for name in ("by hand", "fitted"))
    gain = [new - old for old, new in zip(before, after, strict=True)]
    return {"title": title, "by_hand": summary(before), "fitted": summary(after), "gain": summary(gain)}


def line(row: dict[str, Any]) -> str:
    """One row of the printed table."""
    pairs = "  ".join(
        f"{row[name]['recall_at_5']:.3f} {row[name]['recall_at_10']:.3f} {row[name]['mrr']:.3f}"
        for name in ("by_hand", "fitted")
    )
    low, high = row["gain"]["intervals"]["recall_at_5"]
    return f"{row['title']:<24} {pairs}  {row['gain']['recall_at_5']:+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--check", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    encoder = load_encoder()
    asked, checked = (
        {path: ask_all([one for one in read_conversations(path) if one.scored], encoder) for path in paths}
        for paths in (given.files, given.check)
    )
    together = [its for found in asked.values() for its in found]
    weights = fitted(together)
    rows = [compared(", ".join(path.stem for path in asked), together, without_each(together))]
    rows += [compared(path.stem, found, [weights] * len(found)) for path, found in checked.items()]
    named = dict(zip(FEATURES, weights.tolist(), strict=True))
    if given.json:
        print(json.dumps({"weights": named, "rows": rows}, indent=2))
        return
    for name, weight in named.items():
        print(f'    "{name}": {weight:g},')
    print("\nconversations            by hand: R@5, R@10, MRR  fitted  gain in R@5")
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    main()
