"""What may cross the wire, as ``federation/PROTOCOL.md`` lists it: everything else is named.

The lists here stand on that page too, which a test holds.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import Array, Message

# isort: on
from collections.abc import Mapping

from federation.agent.names import CENTRAL_MESSAGE, CHOICE_MESSAGE, PRIVATE_MESSAGE, RESCORER_MESSAGE, TRAIN_MESSAGE
from federation.agent.private import ADVERT, AGREE, INPUT, REVEAL, SHARES, UNMASK
from federation.agent.terms import NoisyTerms
from federation.errors import UpdateError
from federation.rounds.client_app import ABSTAIN

_HEX, _TERMS = "hex", "terms"
Terms = Mapping[str, object]
_TRAIN: Terms = {
    "server-round": int,
    "catalogue": _HEX,
    "mode": str,
    "hold-back": bool,
    "local-steps": int,
    "learning-rate": float,
    "clip-norm": float,
    "seed": int,
}
_RESCORER: Terms = {"server-round": int, "catalogue": _HEX, "mode": str, "clip-norm": float}
_CHOICE: Terms = {
    "server-round": int,
    "mode": str,
    "clip-norm": float,
    "factors": int,
    "items": _HEX,
    "step": int,
}
_STAGE: Terms = {"server-round": int, "stage": str, "message": bytes}
REQUESTS: Mapping[str, Terms] = {
    TRAIN_MESSAGE: _TRAIN,
    RESCORER_MESSAGE: _RESCORER,
    CHOICE_MESSAGE: _CHOICE,
    CENTRAL_MESSAGE: {"server-round": int, "terms": _TERMS},
}
_PROXIMAL: Terms = {"proximal-mu": float}
OPTIONAL: Mapping[str, Terms] = {
    TRAIN_MESSAGE: _PROXIMAL,
    RESCORER_MESSAGE: _PROXIMAL,
    CHOICE_MESSAGE: _PROXIMAL,
    CENTRAL_MESSAGE: {},
}
ARRAYS: Mapping[str, Mapping[str, str]] = {
    TRAIN_MESSAGE: {"model": "float32"},
    RESCORER_MESSAGE: {"model": "float32", "weights": "float64"},
    CHOICE_MESSAGE: {"model": "float32", "weights": "float64"},
    CENTRAL_MESSAGE: {"model": "float32"},
}
# A private round's six messages: what each has beside stage and message, and whether the model comes with it.
STAGES: Mapping[str, tuple[Terms, Mapping[str, str]]] = {
    ADVERT: ({"terms": _TERMS, "roster": bytes}, {}),
    REVEAL: ({}, {}),
    SHARES: ({}, {}),
    INPUT: ({}, {"model": "float32"}),
    AGREE: ({}, {}),
    UNMASK: ({}, {}),
}


def problem_of(message: Message, asked: Message | None = None) -> str | None:
    """Return what a message holds that no message of the protocol does, in a few words; ``None`` if nothing.

    ``asked`` is the request that a reply is to.
    """
    if asked is None:
        return _problem_of_request(message)
    return _problem_of_reply(message, private=asked.metadata.message_type == PRIVATE_MESSAGE)


def stage_of(request: Message) -> str:
    """The stage of a private round that a request is of."""
    return str(request.content.config_records["config"]["stage"])


def _problem_of_request(message: Message) -> str | None:
    kind, content = message.metadata.message_type, message.content
    config = content.config_records.get("config")
    if config is None or (kind not in REQUESTS and kind != PRIVATE_MESSAGE):
        return f"a message of the kind {kind!r}"
    wanted, arrays, optional = REQUESTS.get(kind, {}), ARRAYS.get(kind, {}), OPTIONAL.get(kind, {})
    if kind == PRIVATE_MESSAGE:
        if config.get("stage") not in STAGES:
            return "a stage that no round has"
        more, arrays = STAGES[stage_of(message)]
        wanted, optional = {**_STAGE, **more}, {}
    there: Mapping[str, Array] = content.array_records.get("arrays") or {}
    if set(content) != {"config", *(["arrays"] if arrays else [])}:
        return f"records {sorted(content)}"
    if {name: array.dtype for name, array in there.items()} != dict(arrays):
        return f"arrays {sorted(there)}"
    known = {**optional, **wanted}
    odd = [name for name in config if name not in known or not _is(config[name], known[name])]
    missing = [name for name in wanted if name not in config]
    return f"terms {odd + missing}" if odd or missing else None


def _problem_of_reply(message: Message, *, private: bool) -> str | None:
    if message.has_error():
        error = message.error
        return None if (error.code, error.reason or "") == (ABSTAIN, "") else f"an error {error.code} with a text"
    content = message.content
    if private:
        config = dict(content.config_records.get("config") or {})
        if set(content) != {"config"} or set(config) != {"message"} or not isinstance(config["message"], bytes):
            return f"records {sorted(content)}"
        return None
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
    if kind == _TERMS:
        return isinstance(value, bytes) and _is_terms(value)
    return type(value) is kind


def _is_terms(value: bytes) -> bool:
    """Whether these are terms of a round in their one form, which has room for nothing else."""
    try:
        NoisyTerms.from_bytes(value)
    except UpdateError:
        return False
    return True
