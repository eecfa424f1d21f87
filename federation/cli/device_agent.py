"""`tacit device agent`: the device's own side of federated rounds, as a process that a node asks."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType

import click

from federation.cli.device_shared import opened, path_argument, plain
from federation.cli.unlock import Unlocking, unlock_options


@click.command()
@path_argument
@click.option(
    "--socket", "socket_path", type=click.Path(path_type=Path), required=True, help="Where to listen; made, mode 0600."
)
@unlock_options
def agent(path: Path, socket_path: Path, unlocking: Unlocking) -> None:
    """Answer federated rounds for the device at PATH until interrupted.

    Start the node with --node-config 'agent="SOCKET"'. Flower ships the app's code from the server to the node, so that
    process gets no key and opens no store: it relays what the server asks to this one, which checks consent, limits and
    the publisher's signatures, and gives one update, one masked array or nothing. A line a message says which.
    """
    from federation.agent.agent import Agent
    from federation.agent.relay import serve

    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    def told(line: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')}  {plain(line)}")

    def ready() -> None:
        click.echo(f"Listening at {socket_path}.")

    with opened(path, unlocking) as device:
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        serve(Agent(device), socket_path, stop=stopped.is_set, told=told, ready=ready)
    click.echo("Stopped.")
