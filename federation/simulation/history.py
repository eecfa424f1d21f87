"""The history of a run's rounds, a line each in ``rounds.jsonl``, so that a resumed run still shows all of them."""

import json
import math
from pathlib import Path
from typing import Any

from federation.simulation.grid import RoundTraffic

HISTORY_FILE = "rounds.jsonl"


class History:
    """Notes figures by round and keeps them in the run's folder; a later note on a round adds to it."""

    def __init__(self, folder: Path, *, continued: bool) -> None:
        self._path = folder / HISTORY_FILE
        self._rounds: dict[int, dict[str, Any]] = {}
        if continued and self._path.is_file():
            written = self._path.read_text(encoding="utf-8")
            if written and not written.endswith("\n"):
                # A run that was killed may leave half a line at the end: what follows begins its own.
                with self._path.open("a", encoding="utf-8") as file:
                    file.write("\n")
            for line in written.splitlines():
                try:
                    note = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self._rounds.setdefault(note["round"], {}).update(note)
        else:
            self._path.write_text("", encoding="utf-8")

    def model(self, server_round: int, accuracy: float) -> None:
        """Note the shared model's accuracy after a round (0: before the first)."""
        self._note({"round": server_round, "accuracy": None if math.isnan(accuracy) else accuracy})

    def traffic(self, traffic: RoundTraffic) -> None:
        """Note what crossed the wire in a round."""
        self._note(
            {
                "round": traffic.server_round,
                "replies": traffic.replies,
                "failures": traffic.failures,
                "sent_bytes": traffic.sent_bytes,
                "received_bytes": traffic.received_bytes,
            }
        )

    def refused(self, server_round: int, why: str) -> None:
        """Note that the server undid a round, and why."""
        self._note({"round": server_round, "refused": why})

    def rounds(self) -> list[dict[str, Any]]:
        """Return one entry a round, in order; those that were undone say why."""
        empty = {"accuracy": None, "replies": 0, "failures": 0, "sent_bytes": 0, "received_bytes": 0}
        return [empty | self._rounds[number] for number in sorted(self._rounds)]

    def _note(self, note: dict[str, Any]) -> None:
        self._rounds.setdefault(note["round"], {}).update(note)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")
