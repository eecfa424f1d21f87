"""`tacit evaluate memory`: what the search of a device's memory finds, on conversations with known evidence.

Each conversation is kept as a device keeps it, sealed in a store of its own, each turn a memory "speaker: text", and
searched by the shipped code alone. Methods:

- ``bm25``, ``embedding``: the store's search by words and by meaning; ``fusion_bm25``: the two fused, by the store;
- ``fusion``: meaning and soft words fused in equal shares, without a re-ranker;
- ``hybrid_shipped``: candidates, features and weights as `Device.search` has them;
- ``hybrid``: the same with weights fitted on the other conversations of the file (leave one conversation out), drawn
  towards the shipped ones; where there is one conversation only, the shipped ones.

Figures are by turn, over all questions that have evidence: the mean share of the evidence among the first 5 and 10, the
share of questions with any of it there, and the mean reciprocal rank of the first, 0 beyond ``RANKED``. Intervals are
percentile bootstraps over conversations, over questions where there is one conversation (Efron and Tibshirani 1993,
section 13.3).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Encoder
from engine.encoders.word_vectors import word_vectors
from engine.recall.features import FEATURES, Features, features_of
from engine.recall.fit import RankedList, fit_weights
from engine.recall.query import Query
from engine.recall.ranking import FUSION, find, rank
from engine.recall.weights import WEIGHTS
from federation.data.conversations import Conversation, Question
from federation.errors import DataError
from federation.evaluation.results import header
from federation.simulation.experiment import Progress, no_progress
from store import DeviceKey, EncryptedStore, FileSecret, MemoryWitness, Record

METHODS = ("bm25", "embedding", "fusion_bm25", "fusion", "hybrid_shipped", "hybrid")
FIGURES = ("recall_at_5", "recall_at_10", "hit_at_5", "hit_at_10", "mrr")
RANKED = 100
PARTS = {
    "soft words": ("soft", "soft_window", "soft_session"),
    "sense": ("sense", "sense_window"),
    "phrases": ("phrase_window",),
    "neighbours": (
        "soft_window",
        "sense_window",
        "phrase_window",
        "has_word_window",
        "meaning_before",
        "meaning_after",
        "answers",
    ),
    "session": ("soft_session", "session_best"),
    "dates": ("tells_when", "kept_then", "kept_soon_after", "tells_of_then"),
    "speaker": ("speaker",),
    "form": ("asks", "length", "tells_number"),
}
"""What ``ablate`` leaves out of the hybrid, one after the other; some features are of two parts."""
_PART = 64
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """One question: for each method the ids that it ranks first, at most ``RANKED``, and what a re-ranker sees.

    ``evidence`` are the ids of the memories wanted; 0 stands for each that is in no memory. ``ids`` (n,) are those of
    the candidates with ``features`` (n, d).
    """

    evidence: frozenset[int]
    missing: int
    ranked: dict[str, list[int]]
    ids: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]

    def list(self) -> RankedList | None:
        """The question as one to fit weights on; ``None`` where no candidate is evidence."""
        at = tuple(np.flatnonzero(np.isin(self.ids, sorted(self.evidence))).tolist())
        return RankedList(features=self.features.astype(np.float64), evidence=at) if at else None


def evaluate_memory(
    conversations: Sequence[Conversation],
    *,
    title: str,
    encoder: Encoder,
    command: str,
    ablate: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return the results, with ``ablate`` those without each of ``PARTS`` too.

    Raises `DataError` where no question has evidence.
    """
    conversations = [one for one in conversations if one.scored and one.memory]
    if not conversations:
        raise DataError(f"{title}: no question has evidence among memories. Give conversations whose questions do.")
    asked = ask_all(conversations, encoder, progress)
    groups = _groups(conversations)
    weights = leave_one_out(asked, groups, progress)
    rank_by(asked, weights, "hybrid")
    results = _results(conversations, asked, groups, weights) | header(title, command, mode=None)
    results |= {"kind": "evaluation of memory"}
    return results | {"without": _ablated(asked, groups, progress)} if ablate else results


def ask_all(
    conversations: Sequence[Conversation], encoder: Encoder, progress: Progress = no_progress
) -> list[list[Asked]]:
    """The scored questions of each conversation, asked of a sealed store that holds its memory."""
    vectors = _encoded(conversations, encoder, progress)
    with progress("searching", sum(len(one.scored) for one in conversations)) as tick:
        return [_searched(one, encoder, vectors, tick) for one in conversations]


def rank_by(asked: Sequence[Sequence[Asked]], weights: Sequence[Floats], method: str) -> None:
    """Note how ``weights`` (d,), one for each conversation, rank the candidates of its questions."""
    for its, fitted in zip(asked, weights, strict=True):
        for question in its:
            order = np.argsort(-(question.features @ fitted), kind="stable")
            question.ranked[method] = question.ids[order][:RANKED].tolist()


def _groups(conversations: Sequence[Conversation]) -> list[int]:
    """A number for each: the same for lines that name the same conversation or hold the same memory."""
    known: dict[object, int] = {}
    numbers = []
    for at, one in enumerate(conversations):
        keys = [one.memory, *([one.name] if one.name else [])]
        number = min((known[key] for key in keys if key in known), default=at)
        known |= dict.fromkeys(keys, number)
        numbers.append(number)
    return numbers


def _joined(values: Sequence[Floats], groups: Sequence[int]) -> list[Floats]:
    """The rows (questions, figures) of each group together."""
    return [
        np.concatenate([v for v, g in zip(values, groups, strict=True) if g == one]) for one in dict.fromkeys(groups)
    ]


def _ablated(asked: Sequence[Sequence[Asked]], groups: Sequence[int], progress: Progress) -> dict[str, Any]:
    """The hybrid's figures without each of ``PARTS``."""
    found = {}
    for part, names in PARTS.items():
        rank_by(asked, leave_one_out(asked, groups, progress, without=names), "ablated")
        found[part] = summary(_joined([np.array([figures_of(q, "ablated") for q in its]) for its in asked], groups))
    return found


def leave_one_out(
    asked: Sequence[Sequence[Asked]],
    groups: Sequence[int],
    progress: Progress = no_progress,
    *,
    without: Sequence[str] = (),
) -> list[Floats]:
    """For each conversation the weights (d,) fitted on all others; the shipped ones where there are no others.

    Those of one number in ``groups`` are the same conversation. The features named in ``without`` have weight 0.
    """
    kept = np.array([name not in without for name in FEATURES], dtype=np.float64)
    prior = kept * np.array([WEIGHTS.get(name, 0.0) for name in FEATURES])
    lists = [[one for question in its if (one := question.list()) is not None] for its in asked]
    if without:
        lists = [[replace(one, features=one.features * kept) for one in its] for its in lists]
    fitted = []
    with progress("fitting weights", len(asked)) as tick:
        for left_out in range(len(asked)):
            others = [one for number, its in enumerate(lists) if groups[number] != groups[left_out] for one in its]
            fitted.append(fit_weights(others, prior=prior))
            tick()
    return fitted


def _encoded(
    conversations: Sequence[Conversation], encoder: Encoder, progress: Progress
) -> dict[str, npt.NDArray[np.float32]]:
    """The vector of each memory, which is encoded once."""
    texts = list(dict.fromkeys(turn.as_text for one in conversations for turn in one.memory))
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    with progress("encoding", len(texts)) as tick:
        for start in range(0, len(texts), _PART):
            part = texts[start : start + _PART]
            vectors.update(zip(part, encoder.encode(part), strict=True))
            for _ in part:
                tick()
    return vectors


def _searched(
    conversation: Conversation, encoder: Encoder, vectors: dict[str, npt.NDArray[np.float32]], tick: Any
) -> list[Asked]:
    """Keep a conversation in a sealed store of its own, and ask its questions."""
    times, words = conversation.times(), word_vectors(encoder)
    records = [Record(text=turn.as_text, time=at) for turn, at in zip(conversation.memory, times, strict=True)]
    asked = []
    with (
        tempfile.TemporaryDirectory(prefix="tacit-") as folder,
        EncryptedStore.create(
            Path(folder) / "memory",
            DeviceKey.generate(),
            dimension=encoder.dimension,
            secret=FileSecret(Path(folder) / "secret"),
            witness=MemoryWitness(),
        ) as store,
    ):
        ids = store.add_many(records, np.stack([vectors[record.text] for record in records]))
        id_of = {turn.id: id for turn, id in zip(conversation.memory, ids, strict=True)}
        for question in conversation.scored:
            query = Query.read(question.text, encoder, now=max(times))
            features = features_of(query, find(store, query, words=words), words=words)
            asked.append(_asked(store, question, query.vector, features, id_of))
            tick()
    return asked


def _asked(
    store: EncryptedStore,
    question: Question,
    vector: npt.NDArray[np.float32],
    features: Features,
    id_of: dict[str, int],
) -> Asked:
    ids = np.array([stored.id for stored in features.candidates.records], dtype=np.int64)
    return Asked(
        evidence=frozenset(id_of[id] for id in question.evidence if id in id_of),
        missing=sum(id not in id_of for id in question.evidence),
        ranked={
            "bm25": [id for id, _ in store.search_text(question.text, RANKED)],
            "embedding": [id for id, _ in store.search(vector, RANKED)],
            "fusion_bm25": [id for id, _ in store.search_hybrid(vector, question.text, RANKED)],
            "fusion": ids[rank(features, FUSION)][:RANKED].tolist(),
            "hybrid_shipped": ids[rank(features)][:RANKED].tolist(),
        },
        ids=ids,
        features=features.matrix.astype(np.float32),
    )


def figures_of(question: Asked, method: str) -> list[float]:
    """The question's ``FIGURES`` by this method."""
    wanted, ranked = len(question.evidence) + question.missing, question.ranked[method]
    found = [len(question.evidence.intersection(ranked[:depth])) for depth in (5, 10)]
    first = next((place for place, id in enumerate(ranked, start=1) if id in question.evidence), None)
    return [found[0] / wanted, found[1] / wanted, float(found[0] > 0), float(found[1] > 0), 1 / first if first else 0.0]


def _results(
    conversations: Sequence[Conversation],
    asked: Sequence[Sequence[Asked]],
    groups: Sequence[int],
    weights: Sequence[Floats],
) -> dict[str, Any]:
    by_method = {
        name: _joined([np.array([figures_of(q, name) for q in its]) for its in asked], groups) for name in METHODS
    }
    gain = [ours - base for ours, base in zip(by_method["hybrid"], by_method["fusion"], strict=True)]
    return {
        "conversations": len(set(groups)),
        "memories": sum(len(memory) for memory in {one.memory for one in conversations}),
        "questions": sum(map(len, asked)),
        "evidence_missing": sum(question.missing for its in asked for question in its),
        "methods": {name: summary(values) for name, values in by_method.items()},
        "gain": summary(gain),
        "weights": {
            "hybrid": "fitted on the other conversations" if len(set(groups)) > 1 else "shipped",
            "mean": {name: round(float(value), 4) for name, value in zip(FEATURES, np.mean(weights, 0), strict=True)},
        },
    }


def summary(values: Sequence[Floats], draws: int = 2000) -> dict[str, Any]:
    """Each figure over all questions and its 95% interval; ``values`` are (questions, figures) by conversation."""
    rng = np.random.default_rng(0)  # The same draws for every method.
    units = list(values) if len(values) > 1 else [row[None] for row in values[0]]
    sums, counts = np.array([unit.sum(axis=0) for unit in units]), np.array([len(unit) for unit in units])
    drawn = rng.integers(len(units), size=(draws, len(units)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)[:, None]  # (draws, figures)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    whole = sums.sum(axis=0) / counts.sum()
    return {
        **{name: float(value) for name, value in zip(FIGURES, whole, strict=True)},
        "intervals": {name: [float(low[at]), float(high[at])] for at, name in enumerate(FIGURES)},
    }
