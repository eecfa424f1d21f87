"""`results.json`: what a run or an evaluation found, read strictly and written whole or not at all.

`check_results` names the first thing that is missing or wrong by its place; whatever passes it can be shown.

>>> check_results({"kind": "evaluation", "title": "a.jsonl"})
Traceback (most recent call last):
federation.errors.DataError: results.json: expected 'generated', which is missing.
"""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.owner.modes import MODES, OPEN, PRIVATE
from federation.errors import DataError, FederationError
from federation.report.words import METHODS, SCOPE_METHODS

FILE_NAME = "results.json"

Results = dict[str, Any]
Check = Callable[[object, str], None]


def load_results(folder: Path) -> Results:
    """Read ``folder/results.json``; raise `DataError` of one line if it is missing or malformed."""
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Give the folder that a run wrote (its --out).")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder} holds no {FILE_NAME}. Give the folder that a finished run wrote.") from None
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # Not JSON, not UTF-8, a number of absurd length, absurdly nested.
        raise DataError(f"{path} is not JSON: {str(error).splitlines()[0]}.") from None
    check_results(content, name=str(path))
    results: Results = content
    return results


def write_results(results: Mapping[str, Any], folder: Path) -> Path:
    """Write ``folder/results.json`` atomically and return its path; the folder is made if it is missing.

    Raises `DataError` if the results would not be read back, and `FederationError` if the disk refuses them.
    """
    check_results(results)
    content = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_file(folder / FILE_NAME, content)


def write_file(path: Path, content: str) -> Path:
    """Replace ``path`` by ``content`` as a whole, its folder made if missing; raise `FederationError` if refused."""
    from engine.model.checkpoint import write_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate can come out of JSON but not go into UTF-8.
        write_atomically(path, content.encode("utf-8", errors="replace"))
    except OSError as error:
        raise FederationError(f"Cannot write {path}: {error.strerror}. The file before it, if any, is whole.") from None
    return path


def check_results(results: object, *, name: str = FILE_NAME) -> None:
    """Raise `DataError` that begins with ``name`` and says which part of the results is missing or malformed."""
    try:
        _object(results, "the whole")
        assert isinstance(results, Mapping)
        _COMMON(results, "")
        if is_choice(results):
            _CHOICE(results, "")
        elif is_memory(results):
            _MEMORY(results, "")
        elif is_evaluation(results):
            _EVALUATION(results, "")
        elif is_comparison(results):
            _COMPARISON(results, "")
            if "cost" in results and not {OPEN, PRIVATE} <= set(results["runs"]):
                raise _Malformed("expected a private and an open run in 'runs', since 'cost' is between them")
        else:
            _whole_run(results, "")
    except _Malformed as error:
        raise DataError(f"{name}: {error}.") from None


def is_choice(results: Mapping[str, Any]) -> bool:
    """Tell an evaluation of choices, which has a page and a table of its own."""
    return results.get("kind") == "choice"


def is_memory(results: Mapping[str, Any]) -> bool:
    """Tell an evaluation of memory search, which has a page and a table of its own."""
    return results.get("kind") == "evaluation of memory"


def is_evaluation(results: Mapping[str, Any]) -> bool:
    """Tell an evaluation (one block per α) from a run (one block, and rounds)."""
    return results.get("kind") == "evaluation"


def is_comparison(results: Mapping[str, Any]) -> bool:
    """Tell runs over the same people in several modes, as `tacit demo` makes them."""
    return results.get("kind") == "modes"


def blocks(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each block of an evaluation or run of a comparison with its name, or a run alone without a name."""
    if is_comparison(results):
        yield from ((f"{mode} mode", run) for mode, run in results["runs"].items())
        return
    if not is_evaluation(results):
        yield "", results
        return
    for block in results["blocks"]:
        alpha = block.get("alpha")
        name = "users of the data" if alpha is None else f"α = {alpha:g}"
        yield name, block
        if "unseen" in block:
            yield f"{name}, joined late", block["unseen"]


class _Malformed(Exception):  # noqa: N818 - it never leaves this module.
    """What is wrong, without the file's name."""


def _place(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _expected(what: str, value: object, where: str) -> _Malformed:
    shown = "null" if value is None else repr(value) if isinstance(value, int | float) else type(value).__name__
    return _Malformed(f"expected {what} in {where!r}, got {shown}")


def _object(value: object, where: str) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _expected("a JSON object", value, where)


def _text(value: object, where: str) -> None:
    if not isinstance(value, str):
        raise _expected("a string", value, where)


def _flag(value: object, where: str) -> None:
    if not isinstance(value, bool):
        raise _expected("true or false", value, where)


def _number(low: float = -math.inf, high: float = math.inf, *, what: str = "a finite number") -> Check:
    def check(value: object, where: str) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(_as_float(value)) or not low <= _as_float(value) <= high:
            raise _expected(what, value, where)

    return check


def _as_float(value: object) -> float:
    assert isinstance(value, int | float)
    try:
        return float(value)
    except OverflowError:  # A whole number beyond the range of floats.
        return math.inf


def _whole(value: object, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise _expected("a whole number from 0", value, where)


def _one_of(names: Collection[str]) -> Check:
    def check(value: object, where: str) -> None:
        if not isinstance(value, str) or value not in names:
            raise _expected(f"one of {', '.join(names)}", value, where)

    return check


def _maybe(check: Check) -> Check:
    return lambda value, where: None if value is None else check(value, where)


def _many(check: Check, *, size: int | None = None, least: int = 0) -> Check:
    def check_all(value: object, where: str) -> None:
        if not isinstance(value, list | tuple):
            raise _expected("a list", value, where)
        if (size is not None and len(value) != size) or len(value) < least:
            raise _Malformed(f"expected {size or f'at least {least}'} entries in {where!r}, got {len(value)}")
        for number, entry in enumerate(value):
            check(entry, f"{where}[{number}]")

    return check_all


def _fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    def check(value: object, where: str) -> None:
        _object(value, where)
        assert isinstance(value, Mapping)
        for name, inner in required.items():
            if name not in value:
                raise _Malformed(f"expected {_place(where, name)!r}, which is missing")
            inner(value[name], _place(where, name))
        for name, inner in (optional or {}).items():
            if name in value:
                inner(value[name], _place(where, name))

    return check


_SHARE = _number(0, 1, what="a share from 0 to 1")
_GAIN = _number(-1, 1, what="a difference from -1 to 1")
_SIZE = _number(0, what="a size in bytes from 0")
_METHOD = {
    "accuracy": _SHARE,
    "accuracy_at_5": _SHARE,
    "mrr": _SHARE,
    "interval": _many(_SHARE, size=2),
    "hurt": _SHARE,
    "hurt_significant": _SHARE,
    "worst_tenth": _SHARE,
}
_METHOD_EXTRA = {"ece": _SHARE, "nll": _number(0), "accuracy_any": _SHARE, "ndcg_at_5": _SHARE}
_OWN = ("global", "personal")
_DEVICE = {
    "device": _text,
    "memories": _whole,
    "rows": _whole,
    # A device without test rows has memories but no figures.
    "global": _maybe(_SHARE),
    "personal": _maybe(_SHARE),
    "gain": _maybe(_GAIN),
}
_BYTES = _fields({"sent_per_device": _SIZE, "received_per_device": _SIZE})
_BLOCK = {
    "methods": _fields(
        {name: _fields(_METHOD, _METHOD_EXTRA) for name in _OWN},
        {name: _fields(_METHOD, _METHOD_EXTRA) for name in METHODS if name not in _OWN},
    ),
    "gain": _fields({"accuracy": _many(_GAIN, size=3)}),
    "users": _whole,
    "rows": _whole,
    "devices": _many(_fields(_DEVICE)),
}
_ROUND = {
    "round": _whole,
    "accuracy": _SHARE,
    "replies": _whole,
    "failures": _whole,
    "sent_bytes": _whole,
    "received_bytes": _whole,
}
_ROUND_EXTRA = {"refused": _text}
_SUGGESTION = {
    "label": _text,
    "score": _number(),
    "source": _text,
    "private": _flag,
    "because": _many(_fields({"text": _text, "similarity": _number()})),
}
_EXAMPLE = {"text": _text, "truth": _text, "global": _text, "suggestions": _many(_fields(_SUGGESTION))}
_EPSILON = _maybe(_number(0, what="a number from 0 or null"))
_PRIVACY = {
    "privacy": _fields({"eps_server": _EPSILON, "eps_released": _EPSILON, "delta": _maybe(_SHARE), "text": _text})
}
_COMMON = _fields(
    {"title": _text, "generated": _flag, "mode": _text, "command": _text, "version": _text},
    {"config": _object, "versions": _object} | _PRIVACY,
)
_RUN = _fields(
    {"config": _object, "rounds": _many(_fields(_ROUND, _ROUND_EXTRA)), "bytes": _BYTES} | _BLOCK,
    {"examples": _many(_fields(_EXAMPLE))},
)
_ALPHA = _maybe(_number(0, what="a number from 0 or null"))
_VERSUS = {"versus_best_baseline": _fields({"name": _one_of(METHODS), "accuracy": _many(_GAIN, size=3)})}
_SCOPE_METHOD = _fields(
    {"auroc": _SHARE, "interval": _many(_SHARE, size=2), "false_refusals": _SHARE, "refused": _SHARE}
)
_SCOPE = {
    "out_of_scope": _fields(
        {
            "in_scope": _whole,
            "out_of_scope": _whole,
            "devices": _whole,
            "devices_without_threshold": _whole,
            "aimed_at": _SHARE,
            "methods": _fields({}, dict.fromkeys(SCOPE_METHODS, _SCOPE_METHOD)),
        }
    )
}
_UNSEEN = {"unseen": _fields(_BLOCK, _VERSUS | _SCOPE)}
_EVALUATION = _fields(
    {
        "blocks": _many(
            _fields({"alpha": _ALPHA} | _BLOCK, {"bytes": _BYTES} | _PRIVACY | _VERSUS | _SCOPE | _UNSEEN), least=1
        )
    },
    {"bytes": _BYTES},
)


def _whole_run(value: object, where: str) -> None:
    _COMMON(value, where)
    _RUN(value, where)
    assert isinstance(value, Mapping)
    # The words of real people have no place in a report that may be passed on.
    if value.get("examples") and not value["generated"]:
        raise _Malformed("expected no 'examples' unless 'generated' is true, since they quote what people said")


def _runs(value: object, where: str) -> None:
    _object(value, where)
    assert isinstance(value, Mapping)
    if not value or not set(value) <= set(MODES):
        raise _Malformed(f"expected one run or more in {where!r}, each by its mode ({', '.join(MODES)})")
    for mode, run in value.items():
        _whole_run(run, _place(where, mode))


_LEDGER_ENTRY = _fields({"number": _whole, "kind": _text, "words": _text}, {"time": _number()})
_COMPARISON = _fields(
    {"runs": _runs},
    {
        "cost": _fields({"personal": _many(_GAIN, size=3), "global": _many(_GAIN, size=3)}),
        "ledger": _fields({"device": _text, "chain": _text, "delta": _SHARE, "entries": _many(_LEDGER_ENTRY)}),
    },
)
CHOICE_METRICS = ("accuracy", "accuracy_at_5", "mrr", "hit_rate_at_10", "ndcg_at_10")
_CHOICE_FIGURES = dict.fromkeys(CHOICE_METRICS, _SHARE) | {
    "interval": _many(_SHARE, size=2),
    "hit_rate_interval": _many(_SHARE, size=2),
    "rows": _whole,
}
_CHOICE_METHOD = _fields(
    {
        **_CHOICE_FIGURES,
        "new_items": _maybe(_fields(_CHOICE_FIGURES)),
        "not_in_this_context": _maybe(_fields(_CHOICE_FIGURES)),
    }
)
CHOICE_METHODS = {
    "personalized": "Personalized, by rounds",
    "most_frequent": "The user's most frequent",
    "own_context": "Own frequency × own context",
    "popularity": "Popularity",
    "item_knn": "Item neighbours, centralised",
    "svd32": "SVD-32, centralised",
    "ease": "EASE, centralised",
}


def _choice_methods(value: object, where: str) -> None:
    _object(value, where)
    assert isinstance(value, Mapping)
    for name, figures in value.items():
        if name not in CHOICE_METHODS:
            raise _Malformed(f"expected a method that this release knows in {where!r}, got another")
        _CHOICE_METHOD(figures, _place(where, name))
    if "personalized" not in value:
        raise _Malformed(f"expected {_place(where, 'personalized')!r}, which is missing")


_CHOICE = _fields(
    {
        "methods": _choice_methods,
        "users": _whole,
        "rows": _whole,
        "devices": _whole,
        "items": _whole,
        "seeds": _whole,
        "bytes": _BYTES,
    }
)
_FOUND = dict.fromkeys(("recall_at_5", "recall_at_10", "hit_at_5", "hit_at_10", "mrr"), _SHARE)
_FOUND_BY = _fields(_FOUND | {"intervals": _fields({name: _many(_SHARE, size=2) for name in _FOUND})})
_SEARCHES = ("bm25", "embedding", "fusion_bm25", "fusion", "hybrid_shipped", "hybrid")


def _each_part(value: object, where: str) -> None:
    _object(value, where)
    assert isinstance(value, Mapping)
    for part, its in value.items():
        _FOUND_BY(its, _place(where, part))


_MEMORY = _fields(
    {
        "methods": _fields(dict.fromkeys(_SEARCHES, _FOUND_BY)),
        "conversations": _whole,
        "memories": _whole,
        "questions": _whole,
        "weights": _fields({"hybrid": _text}),
    },
    {"without": _each_part},
)
