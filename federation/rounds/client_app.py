"""The Flower ClientApp: a relay between the server's message and the device's agent. It opens no store.

A reply holds one float32 array and the constant weight 1; whatever else would leave is replaced by an error code.
Flower starts a process for each message, so what a relay has no use for is imported where a simulation, or a kind of
message, needs it.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

# isort: on
from collections.abc import Callable

from federation.agent import pool
from federation.agent.asked import Answer, Asked
from federation.agent.names import ARRAY, CENTRAL_MESSAGE, CHOICE_MESSAGE, MESSAGE, PRIVATE_MESSAGE, RESCORER_MESSAGE
from federation.agent.relay import ask
from federation.errors import UpdateError
from federation.rounds.records import ARRAYS, CONFIG, METRICS, WEIGHT, answer_of, as_arrays, reply_array

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
    return _relayed(message, context)


@app.train("rescorer")
def rescorer(message: Message, context: Context) -> Message:
    """Relay a request for the re-scorer's statistics to the agent, and its answer back."""
    return _relayed(message, context)


@app.train("choice")
def choice(message: Message, context: Context) -> Message:
    """Relay a request about choices to the agent, and its answer back."""
    return _relayed(message, context)


@app.train("central")
def central(message: Message, context: Context) -> Message:
    """Relay a request of central mode to the agent, and its update back."""
    return _relayed(message, context)


@app.train("private")
def private(message: Message, context: Context) -> Message:
    """Relay one stage of a private round to the agent, and its answer back."""
    return _relayed(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """No metric ever leaves: the same abstain as for anything else."""
    return _relayed(message, context)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Nothing of a device is told: the same abstain as for anything else."""
    return _relayed(message, context)


def _relayed(message: Message, context: Context) -> Message:
    """Ask the agent: that of the simulation in this process, or the one at the socket that the node's owner named."""
    came = _answered(_asked(message, run=f"Flower run {context.run_id}", node_id=context.node_id), context)
    if isinstance(came, bytes):
        return Message(RecordDict({CONFIG: ConfigRecord({MESSAGE: came})}), reply_to=message)
    return Message(RecordDict({ARRAYS: as_arrays(came), METRICS: MetricRecord({WEIGHT: 1.0})}), reply_to=message)


def _answered(asked: Asked, context: Context) -> Answer:
    agent = pool.simulated(context.node_config)
    if agent is None:
        return ask(pool.socket_of(context.node_config), asked)
    from federation.agent.answers import answer

    return answer(agent, asked)


def _asked(message: Message, *, run: str, node_id: int) -> Asked:
    """The message as plain values and arrays."""
    values = dict(message.content.config_records[CONFIG])
    if any(isinstance(value, list) for value in values.values()):
        raise UpdateError("A message holds lists, which none of a round does.")
    arrays = message.content.array_records.get(ARRAYS)
    return Asked(
        kind=message.metadata.message_type,
        run=run,
        node_id=node_id,
        values=values,  # type: ignore[arg-type]
        arrays={} if arrays is None else {name: array.numpy() for name, array in arrays.items()},
    )


def _reply_length(message: Message) -> int:
    """How many numbers may leave in answer to ``message``: of a model, of the statistics, or of sums about choices."""
    kind = message.metadata.message_type
    if kind == CHOICE_MESSAGE:
        from federation.agent.answers import choice_request

        return choice_request(_asked(message, run="", node_id=0)).length
    if kind == RESCORER_MESSAGE:
        from engine.personal.together import ANSWER_LENGTH

        return ANSWER_LENGTH
    if kind == CENTRAL_MESSAGE:
        from federation.agent.answers import terms_of

        return terms_of(_asked(message, run="", node_id=0)).dimension
    shape = message.content.array_records[ARRAYS][ARRAY].shape
    if len(shape) != 1:
        raise UpdateError("Expected a flat model.")
    return int(shape[0])
