"""What leaves a device for what was asked: the agent reads it as a hostile server's, whoever relays it.

What is missing, of another type or of no known kind is refused with an `UpdateError`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.model.training import TrainingPlan
from federation.agent.agent import Agent, CentralRequest, StatisticsRequest, TrainRequest
from federation.agent.asked import Answer, Asked
from federation.agent.choice_request import ChoiceRequest
from federation.agent.names import (
    ARRAY,
    CATALOGUE,
    CENTRAL_MESSAGE,
    CHOICE_MESSAGE,
    FACTORS,
    ITEMS,
    MESSAGE,
    PRIVATE_MESSAGE,
    RESCORER_MESSAGE,
    ROSTER,
    STAGE,
    STEP,
    TERMS,
    TRAIN_MESSAGE,
    WEIGHTS,
)
from federation.agent.private import ADVERT, INPUT
from federation.agent.terms import NoisyTerms
from federation.errors import UpdateError
from federation.privacy.update import Floats


def answer(agent: Agent, asked: Asked) -> Answer:
    """Return what leaves the device for what was asked: one float32 array, or one message of a secure sum.

    Raises `UpdateError` where the device does not take part, and what the engine and the store raise.
    """
    kinds: dict[str, Callable[[], Answer]] = {
        TRAIN_MESSAGE: lambda: agent.train(_train(asked), node_id=asked.node_id),
        RESCORER_MESSAGE: lambda: agent.statistics(_statistics(asked)),
        CHOICE_MESSAGE: lambda: agent.choices(choice_request(asked)),
        CENTRAL_MESSAGE: lambda: agent.central(_central(asked), node_id=asked.node_id),
        PRIVATE_MESSAGE: lambda: _private(agent, asked),
    }
    if asked.kind not in kinds:
        raise UpdateError(f"This agent knows no message of the kind {asked.kind!r}.")
    try:
        return kinds[asked.kind]()
    except KeyError as error:
        raise UpdateError(f"The message lacks {error}.") from None


def choice_request(asked: Asked) -> ChoiceRequest:
    """What a message about choices asks. Raises `UpdateError` and KeyError."""
    factors = _whole(asked, FACTORS)
    return ChoiceRequest(
        run=asked.run,
        basis=np.asarray(asked.arrays[ARRAY], dtype=np.float32).reshape(-1, factors),
        items=str(asked.values[ITEMS]),
        step=_whole(asked, STEP),
        weights=np.asarray(asked.arrays[WEIGHTS], dtype=np.float64),
        server_round=_whole(asked, "server-round"),
        mode=str(asked.values["mode"]),
        clip_norm=_number(asked, "clip-norm"),
    )


def _train(asked: Asked) -> TrainRequest:
    return TrainRequest(
        run=asked.run,
        flat=_model(asked),
        catalogue=str(asked.values[CATALOGUE]),
        server_round=_whole(asked, "server-round"),
        mode=str(asked.values["mode"]),
        hold_back=bool(asked.values["hold-back"]),
        plan=TrainingPlan(
            steps=_whole(asked, "local-steps"),
            learning_rate=_number(asked, "learning-rate"),
            proximal_mu=_number(asked, "proximal-mu") if "proximal-mu" in asked.values else 0.0,
        ),
        clip_norm=_number(asked, "clip-norm"),
        seed=_whole(asked, "seed"),
    )


def _statistics(asked: Asked) -> StatisticsRequest:
    return StatisticsRequest(
        run=asked.run,
        flat=_model(asked),
        catalogue=str(asked.values[CATALOGUE]),
        weights=np.asarray(asked.arrays[WEIGHTS], dtype=np.float64),
        server_round=_whole(asked, "server-round"),
        mode=str(asked.values["mode"]),
        clip_norm=_number(asked, "clip-norm"),
    )


def terms_of(asked: Asked) -> NoisyTerms:
    """The terms of a round with noise. Raises `UpdateError` and KeyError."""
    return NoisyTerms.from_bytes(_bytes(asked, TERMS))


def _central(asked: Asked) -> CentralRequest:
    return CentralRequest(terms=terms_of(asked), flat=_model(asked))


def _private(agent: Agent, asked: Asked) -> bytes:
    stage, message = str(asked.values[STAGE]), _bytes(asked, MESSAGE)
    if stage == ADVERT:
        return agent.private.advert(message, terms=_bytes(asked, TERMS), roster=_bytes(asked, ROSTER))
    if stage == INPUT:
        return agent.private.input(message, flat=_model(asked))
    return agent.private.answer(stage, message)


def _model(asked: Asked) -> Floats:
    return np.asarray(asked.arrays[ARRAY], dtype=np.float32)


def _typed(asked: Asked, name: str, kinds: type | tuple[type, ...]) -> Any:
    value = asked.values[name]
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UpdateError(f"Expected another type of {name} than that of {value!r}.")
    return value


def _whole(asked: Asked, name: str) -> int:
    return int(_typed(asked, name, int))


def _number(asked: Asked, name: str) -> float:
    return float(_typed(asked, name, (int, float)))


def _bytes(asked: Asked, name: str) -> bytes:
    return bytes(_typed(asked, name, bytes))
