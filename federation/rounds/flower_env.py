"""Keeps Flower quiet: no telemetry, no update check, no installation at run time. Import before Flower itself."""

import logging
import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")


def quiet() -> None:
    """Let only Flower's errors through: rounds have a progress bar and a report of their own."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
