"""The command's entry: a group whose commands are imported when they are called, and the edge where errors end.

Exit status: 0 when all was done; 2 for a wrong call; 130 after Ctrl-C; otherwise the error's own `exit_code`.
"""

import errno
import importlib
import sys
import traceback

import click

# Name, the module that holds it, and the line that `tacit --help` shows without importing it.
_COMMANDS = {
    "demo": ("federation.cli.demo", "Fill, train and personalize 24 simulated devices, and show the results."),
    "simulate": ("federation.cli.simulate", "Run federated rounds over the users of a data file, one device each."),
    "device": ("federation.cli.device", "Create and use one device's encrypted memory."),
    "model": ("federation.cli.model", "Change a shared model's file between rounds."),
    "publisher": ("federation.cli.publisher", "Sign models and the list of devices."),
    "privacy": ("federation.cli.privacy", "Print the noise that an ε needs, and what a run then guarantees."),
    "audit": ("federation.cli.audit", "Attack the running code, and print what each attack found and its limit."),
    "evaluate": ("federation.cli.evaluate", "Measure personalization on a data file by the protocol."),
    "report": ("federation.cli.report", "Write report.html and print the table of a finished run again."),
}
UNEXPECTED = 70
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or ``None`` for an unknown name."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' lines from the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Errors are one line and a hint. Put --debug before the command to see where one came from.",
)
@click.option("--debug", is_flag=True, help="Show the whole trace of an error.")
@click.version_option(package_name="tacit", message="tacit %(version)s")
def cli(debug: bool) -> None:
    """Tacit: sealed memory on the device, personal models, federated rounds. No raw data leaves a device."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its status."""
    given = sys.argv[1:] if arguments is None else arguments
    # Read before click does: an error in the call itself may come first.
    debug = "--debug" in given
    try:
        # Without its standalone mode click returns the status that a command asked to leave with.
        status = cli.main(args=given, prog_name="tacit", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. What was acknowledged is kept.", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away: nothing to say, and nobody to say it to.
        sys.stderr.close()
        sys.exit(INTERRUPTED)
    # The edge: everything that was not foreseen becomes one line here.
    except Exception as error:  # noqa: BLE001
        if debug:
            traceback.print_exc()
        click.echo(f"Error: {_one_line(error)}", err=True)
        sys.exit(getattr(error, "exit_code", UNEXPECTED))
    if isinstance(status, int) and status:
        sys.exit(status)


def _one_line(error: Exception) -> str:
    if hasattr(error, "exit_code") or isinstance(error, ValueError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "The disk is full. What was written before is whole; free some space and run the command again."
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in (
        "flwr",
        "matplotlib",
        "dp_accounting",
    ):
        return f"This command needs {error.name}. Install it with: pip install 'tacit[federation]'"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"Unexpected {type(error).__name__}: {' '.join(str(error).split())} (tacit --debug shows where)"
