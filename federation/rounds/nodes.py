"""Which nodes a round with noise asks: all that are connected, once there are enough for it to come about."""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.serverapp import Grid

# isort: on
import time

_POLL_S = 0.5


def connected(grid: Grid, *, least: float, within_s: float) -> list[int]:
    """The nodes of ``grid``, ascending, as soon as there are ``least``; those that came in ``within_s`` seconds if not.

    Nodes connect in their own time, and a server app may begin before most of them have.
    """
    end = time.monotonic() + within_s
    nodes = sorted(grid.get_node_ids())
    while len(nodes) < least and (left := end - time.monotonic()) > 0:
        time.sleep(min(_POLL_S, left))
        nodes = sorted(grid.get_node_ids())
    return nodes
