"""What may cross the wire, as ``federation/PROTOCOL.md`` lists it: everything else is named.

The lists here stand on that page too, which a test holds.
"""

from collections.abc import Mapping

from flwr.app import Message

from federation.rounds.client_app import ABSTAIN

_HEX = "hex"
_TRAIN: Mapping[str, object] = {
    "server-round": int,
    "catalogue": _HEX,
    "mode": str,
    "hold-back": bool,
    "local-steps": int,
    "learning-rate": float,
    "clip-norm": float,
    "seed": int,
}
_RESCORER: Mapping[str, object] = {
    "server-round": int,
    "catalogue": _HEX,
    "mode": str,
    "clip-norm": float,
}
REQUESTS: Mapping[str, Mapping[str, object]] = {"train": _TRAIN, "train.rescorer": _RESCORER}
OPTIONAL: Mapping[str, object] = {"proximal-mu": float}
ARRAYS: Mapping[str, Mapping[str, str]] = {
    "train": {"model": "float32"},
    "train.rescorer": {"model": "float32", "weights": "float64"},
}


def problem_of(message: Message) -> str | None:
    """Return what a message holds that no message of the protocol does, in a few words; ``None`` if nothing."""
    if message.metadata.reply_to_message_id:
        return _problem_of_reply(message)
    return _problem_of_request(message)


def _problem_of_request(message: Message) -> str | None:
    kind, content = message.metadata.message_type, message.content
    if kind not in REQUESTS:
        return f"a message of the kind {kind!r}"
    if set(content) != {"arrays", "config"}:
        return f"records {sorted(content)}"
    arrays = content.array_records["arrays"]
    if {name: array.dtype for name, array in arrays.items()} != dict(ARRAYS[kind]):
        return f"arrays {sorted(arrays)}"
    config, known = content.config_records["config"], {**OPTIONAL, **REQUESTS[kind]}
    odd = [name for name in config if name not in known or not _is(config[name], known[name])]
    missing = [name for name in REQUESTS[kind] if name not in config]
    return f"terms {odd + missing}" if odd or missing else None


def _problem_of_reply(message: Message) -> str | None:
    if message.has_error():
        error = message.error
        return None if (error.code, error.reason or "") == (ABSTAIN, "") else f"an error {error.code} with a text"
    content = message.content
    if set(content) != {"arrays", "metrics"}:
        return f"records {sorted(content)}"
    arrays, metrics = content.array_records["arrays"], dict(content.metric_records["metrics"])
    if metrics != {"weight": 1.0}:
        return f"metrics {sorted(metrics)}"
    if set(arrays) != {"model"} or arrays["model"].dtype != "float32" or len(arrays["model"].shape) != 1:
        return "other than one float32 array"
    return None


def _is(value: object, kind: object) -> bool:
    if kind == _HEX:
        return isinstance(value, str) and len(value) == 32 and not set(value) - set("0123456789abcdef")
    if kind is float:
        return isinstance(value, float)
    return type(value) is kind
