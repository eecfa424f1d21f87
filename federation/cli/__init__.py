"""The `tacit` command. Importing it costs little: what a command needs is imported when it runs."""

from federation.cli.app import main

__all__ = ["main"]
