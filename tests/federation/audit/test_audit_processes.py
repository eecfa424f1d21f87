"""Processes that an audit starts: one that has ended is named, and ports are none that a connection may get."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from federation.audit.processes import Processes, free_port
from federation.errors import FederationError


def test_a_process_that_ended_is_named_with_its_status(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("stays", "python", "-c", "import time; time.sleep(60)", env=dict(os.environ))
        processes.require_all()
        processes.start("leaves", "python", "-c", "raise SystemExit(3)", env=dict(os.environ)).wait()
        with pytest.raises(FederationError, match="leaves ended with status 3"):
            processes.require_all()


def test_ports_are_free_and_below_those_of_connections() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    taken = socket.socket()
    with taken:
        taken.bind(("127.0.0.1", 0))
        assert taken.getsockname()[1] >= low
        ports = {free_port() for _ in range(50)}
    assert max(ports) < low
    assert len(ports) > 40
