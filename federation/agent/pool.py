"""Where a node finds its device's agent: in this process in a simulation, at a socket in deployment.

Which one it is says the provider that a simulation installs, or the node's own configuration. The server's message
never names a path.
"""

import contextlib
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from federation.errors import UpdateError

if TYPE_CHECKING:
    from engine.device.device import Device
    from engine.encoders.encoder import Encoder
    from federation.agent.agent import Agent

NodeConfig = Mapping[str, bool | int | float | str]
# An open store takes three file descriptors (the database, its journal, the journal's index); one to spare.
_DESCRIPTORS_EACH = 4
_DESCRIPTORS_OTHERWISE = 256
_DESCRIPTORS_WANTED = 8192


def most_open() -> int:
    """Return how many stores this process may hold open, after raising its soft limit as far as it is let."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    descriptors = _DESCRIPTORS_WANTED if soft == resource.RLIM_INFINITY else soft
    return max(1, (descriptors - _DESCRIPTORS_OTHERWISE) // _DESCRIPTORS_EACH)


class DevicePool:
    """Opens the devices of a simulation by name as they are asked, and keeps the latest open.

    ``opener`` opens a device; as many stay open as the process may hold. ``encoder`` is the one they share, which the
    server of the simulation then has too. Close the pool, or use it in a ``with`` statement.
    """

    def __init__(self, opener: "Callable[[str], Device]", *, encoder: "Encoder | None" = None) -> None:
        self._opener, self._most_open, self.encoder = opener, most_open(), encoder
        self._open: OrderedDict[str, Agent] = OrderedDict()
        self._lock = threading.Lock()

    def agent(self, name: str) -> "Agent":
        """Return the agent of the device with this name."""
        from federation.agent.agent import Agent  # Not at the top: a node's process finds a socket here, no device.

        with self._lock:
            agent = self._open.pop(name, None) or Agent(self._opener(name))
            self._open[name] = agent
            while len(self._open) > self._most_open:
                _, oldest = self._open.popitem(last=False)
                oldest.device.close()
            return agent

    def close(self) -> None:
        """Close all devices."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].device.close()

    def __enter__(self) -> "DevicePool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_pool: DevicePool | None = None


@contextlib.contextmanager
def serving(pool: DevicePool) -> Iterator[None]:
    """Answer the nodes of a simulation in this process from ``pool`` while the block runs."""
    global _pool
    if _pool is not None:
        raise RuntimeError("A simulation is running in this process already.")
    _pool = pool
    try:
        yield
    finally:
        _pool = None


def simulated(node_config: NodeConfig) -> "Agent | None":
    """Return the agent of this node in the simulation that runs in this process; ``None`` where none does."""
    return None if _pool is None else _pool.agent(str(node_config["device"]))


def socket_of(node_config: NodeConfig) -> str:
    """Return where the agent of this node listens, as its owner configured. Raises `UpdateError`."""
    path = node_config.get("agent")
    if not isinstance(path, str):
        raise UpdateError(
            "Start the device's agent with `tacit device agent PATH --socket SOCKET`, and the node with "
            "--node-config 'agent=\"SOCKET\"'."
        )
    return path
