"""What a private round over real SuperNodes costs, by kind of process: `python -m benchmarks.nodes`.

It is the round of the full audit (`federation/audit/deployment.py`): 13 devices whose agents are processes of their own
but for two, one of which fails and one of whose nodes is killed, and a node without an agent. What is started is read
from /proc, 20 times a second, so a process that lived for less counts in part or not at all. Memory is what a process
has for itself and its share of what it has with others (PSS), once a second. Beside it stands what a message's process
takes to load Flower's part and ours. Needs Linux.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.encoders.encoder import CachedEncoder, load_encoder
from engine.owner.modes import PRIVATE
from federation.audit.deployment import run_deployed
from federation.audit.wire import deployed_world

NAMES = re.compile(r"\b(flower-\w+|flwr-\w+|flwr|tacit)(?=\0|$)")
EVERY_S, MEMORY_EVERY_S = 0.05, 1.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Watched:
    """CPU-seconds of each process below this one by its kind, and the most memory that all of them had at once."""

    cpu_s: dict[int, float] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    most_at_once: int = 0
    most_bytes: int = 0

    def look(self, *, memory: bool) -> None:
        """Read /proc once."""
        below, there = {os.getpid(), *self.cpu_s}, 0
        for number in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            try:
                stat = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                if number == os.getpid() or int(stat[1]) not in below:
                    continue
                below.add(number)
                there += 1
                self.cpu_s[number] = (int(stat[11]) + int(stat[12])) / TICKS
                kind = NAMES.findall(Path(f"/proc/{number}/cmdline").read_text(encoding="utf-8", errors="replace"))
            except (FileNotFoundError, ProcessLookupError):  # It has ended.
                continue
            if kind:  # Until then it is a copy of what started it.
                self.kinds[number] = kind[0]
        self.most_at_once = max(self.most_at_once, there)
        if memory:
            self.most_bytes = max(self.most_bytes, sum(map(_share_bytes, self.cpu_s)))

    def table(self) -> list[str]:
        """A line a kind: how many, CPU-seconds of each, and of all."""
        by_kind = defaultdict[str, list[float]](list)
        for number, seconds in self.cpu_s.items():
            if number in self.kinds:
                by_kind[self.kinds[number]].append(seconds)
        rows = sorted(by_kind.items(), key=lambda row: -sum(row[1]))
        lines = [f"{'':20} {'number':>8} {'CPU-s each':>12} {'CPU-s':>8}"]
        lines += [f"{kind:20} {len(all_):8} {np.mean(all_):12.2f} {sum(all_):8.1f}" for kind, all_ in rows]
        return [
            *lines,
            f"{'all':20} {sum(map(len, by_kind.values())):8} {'':12} {sum(map(sum, by_kind.values())):8.1f}",
        ]


def _share_bytes(number: int) -> int:
    try:
        told = Path(f"/proc/{number}/smaps_rollup").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return 1024 * int(re.findall(r"^Pss: +(\d+) kB", told, re.MULTILINE)[0])


def loaded_s(module: str) -> float:
    """CPU-seconds of a process that loads a module and what it needs; the least of five."""
    code = f"import time; began = time.process_time(); import {module}; print(time.process_time() - began)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    return min(float(one.stdout) for one in done)


def main() -> None:
    """Run the round and print what it took."""
    watched, done = Watched(), threading.Event()

    def look() -> None:
        last = 0.0
        while not done.is_set():
            memory = time.monotonic() - last > MEMORY_EVERY_S
            last = time.monotonic() if memory else last
            watched.look(memory=memory)
            time.sleep(EVERY_S)

    encoder = CachedEncoder(load_encoder())
    thread = threading.Thread(target=look)
    with tempfile.TemporaryDirectory(prefix="tacit-nodes-") as folder:
        world = deployed_world(Path(folder) / "devices", PRIVATE, encoder=encoder, rng=np.random.default_rng(0))
        thread.start()
        began = time.monotonic()
        seen = run_deployed(world, Path(folder), apart=world.healthy)
        done.set()
        thread.join()
    print(f"{len(seen.messages)} messages in {time.monotonic() - began:.0f} s; {seen.failed or 'the round ended well'}")
    print("\n".join(watched.table()))
    flower, both = loaded_s("flwr.clientapp"), loaded_s("federation.rounds.client_app")
    print(f"to load: {flower:.2f} CPU-s Flower's app, {max(0.0, both - flower):.2f} more with ours")
    print(f"at most {watched.most_at_once} processes and {watched.most_bytes / 1e9:.1f} GB at once")


if __name__ == "__main__":
    main()
