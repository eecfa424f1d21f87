"""The Flower ClientApp: a relay between the server's message and the device's agent. It opens no store.

A reply holds one float32 array and the constant weight 1; whatever else would leave is replaced by an error code.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

# isort: on
from collections.abc import Callable

import numpy as np

from engine.model.training import TrainingPlan
from engine.personal.shrinkage import ANSWER_LENGTH
from federation.agent.agent import CentralRequest, StatisticsRequest, TrainRequest
from federation.agent.choice_request import ChoiceRequest
from federation.agent.pool import agent_of
from federation.agent.private import ADVERT, INPUT
from federation.agent.terms import NoisyTerms
from federation.errors import UpdateError
from federation.privacy.update import Floats
from federation.rounds.choice_rounds import CHOICE_MESSAGE, FACTORS, ITEMS, STEP
from federation.rounds.noisy_rounds import CENTRAL_MESSAGE
from federation.rounds.private_rounds import MESSAGE, PRIVATE_MESSAGE, ROSTER, STAGE, TERMS, answer_of
from federation.rounds.strategy import (
    ARRAY,
    ARRAYS,
    CATALOGUE,
    CONFIG,
    METRICS,
    WEIGHT,
    WEIGHTS,
    as_arrays,
    reply_array,
)

# One code for every failure: why a device does not take part is its owner's matter.
ABSTAIN = 100


def only_updates_leave(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Flower mod: refuse any reply that is not exactly one update, and replace error text by a code."""
    try:
        reply = call_next(message, context)
        if reply.has_content():
            if message.metadata.message_type != PRIVATE_MESSAGE:
                reply_array(reply.content, length=_reply_length(message))
                return reply
            if answer_of(reply) is not None:
                return reply
    # The edge of the device: the text of whatever went wrong may quote a record, so none of it may pass.
    except Exception:  # noqa: BLE001
        pass
    return Message(Error(code=ABSTAIN), reply_to=message)


app = ClientApp(mods=[only_updates_leave])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Relay a training request to the agent, and its update back."""
    with agent_of(context.node_config) as agent:
        update = agent.train(_request(message, run=_run(context)), node_id=context.node_id)
    return _reply(update, message)


@app.train("rescorer")
def rescorer(message: Message, context: Context) -> Message:
    """Relay a request for the re-scorer's statistics to the agent, and its answer back."""
    with agent_of(context.node_config) as agent:
        statistics = agent.statistics(_statistics_request(message, run=_run(context)))
    return _reply(statistics, message)


@app.train("choice")
def choice(message: Message, context: Context) -> Message:
    """Relay a request about choices to the agent, and its answer back."""
    with agent_of(context.node_config) as agent:
        sums = agent.choices(_choice_request(message, run=_run(context)))
    return _reply(sums, message)


@app.train("central")
def central(message: Message, context: Context) -> Message:
    """Relay a request of central mode to the agent, and its update back."""
    terms = NoisyTerms.from_bytes(_bytes(message.content.config_records[CONFIG][TERMS]))
    with agent_of(context.node_config) as agent:
        update = agent.central(CentralRequest(terms=terms, flat=_model(message)), node_id=context.node_id)
    return _reply(update, message)


@app.train("private")
def private(message: Message, context: Context) -> Message:
    """Relay one stage of a private round to the agent, and its answer back."""
    config = message.content.config_records[CONFIG]
    stage, told = str(config[STAGE]), _bytes(config[MESSAGE])
    with agent_of(context.node_config) as agent:
        if stage == ADVERT:
            answer = agent.private.advert(told, terms=_bytes(config[TERMS]), roster=_bytes(config[ROSTER]))
        elif stage == INPUT:
            answer = agent.private.input(told, flat=_model(message))
        else:
            answer = agent.private.answer(stage, told)
    return Message(RecordDict({CONFIG: ConfigRecord({MESSAGE: answer})}), reply_to=message)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise UpdateError("Expected bytes.")
    return value


def _model(message: Message) -> Floats:
    return np.asarray(message.content.array_records[ARRAYS][ARRAY].numpy(), dtype=np.float32)


def _reply(values: Floats, message: Message) -> Message:
    content = RecordDict({ARRAYS: as_arrays(values), METRICS: MetricRecord({WEIGHT: 1.0})})
    return Message(content, reply_to=message)


def _run(context: Context) -> str:
    return f"Flower run {context.run_id}"


def _request(message: Message, *, run: str) -> TrainRequest:
    config = message.content.config_records[CONFIG]
    return TrainRequest(
        run=run,
        flat=_model(message),
        catalogue=str(config[CATALOGUE]),
        server_round=int(config["server-round"]),  # type: ignore[arg-type]
        mode=str(config["mode"]),
        hold_back=bool(config["hold-back"]),
        plan=TrainingPlan(
            steps=int(config["local-steps"]),  # type: ignore[arg-type]
            learning_rate=float(config["learning-rate"]),  # type: ignore[arg-type]
            proximal_mu=float(config.get("proximal-mu", 0.0)),  # type: ignore[arg-type]
        ),
        clip_norm=float(config["clip-norm"]),  # type: ignore[arg-type]
        seed=int(config["seed"]),  # type: ignore[arg-type]
    )


def _statistics_request(message: Message, *, run: str) -> StatisticsRequest:
    config, arrays = message.content.config_records[CONFIG], message.content.array_records[ARRAYS]
    return StatisticsRequest(
        run=run,
        flat=np.asarray(arrays[ARRAY].numpy(), dtype=np.float32),
        catalogue=str(config[CATALOGUE]),
        weights=np.asarray(arrays[WEIGHTS].numpy(), dtype=np.float64),
        server_round=int(config["server-round"]),  # type: ignore[arg-type]
        mode=str(config["mode"]),
        clip_norm=float(config["clip-norm"]),  # type: ignore[arg-type]
    )


def _choice_request(message: Message, *, run: str) -> ChoiceRequest:
    config, arrays = message.content.config_records[CONFIG], message.content.array_records[ARRAYS]
    factors = int(config[FACTORS])  # type: ignore[arg-type]
    return ChoiceRequest(
        run=run,
        basis=np.asarray(arrays[ARRAY].numpy(), dtype=np.float32).reshape(-1, factors),
        items=str(config[ITEMS]),
        step=int(config[STEP]),  # type: ignore[arg-type]
        weights=np.asarray(arrays[WEIGHTS].numpy(), dtype=np.float64),
        server_round=int(config["server-round"]),  # type: ignore[arg-type]
        mode=str(config["mode"]),
        clip_norm=float(config["clip-norm"]),  # type: ignore[arg-type]
    )


def _reply_length(message: Message) -> int:
    """How many numbers may leave in answer to ``message``: of a model, of the statistics, or of sums about choices."""
    if message.metadata.message_type == CHOICE_MESSAGE:
        return _choice_request(message, run="").length
    if message.metadata.message_type not in (MessageType.TRAIN, CENTRAL_MESSAGE):
        return ANSWER_LENGTH
    shape = message.content.array_records[ARRAYS][ARRAY].shape
    if len(shape) != 1:
        raise UpdateError("Expected a flat model.")
    return int(shape[0])
