"""Write docs/cli.md from the command itself: every command, its help and its options.

`python docs/make_cli.py` writes; with `--check` it writes nothing and exits 1 if the page is stale. The same commands
give the same bytes, whatever the terminal's width and the release of click.
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "cli.md"
HEAD = """# The `tacit` command

Made by `python docs/make_cli.py` from the command's own help: change it there.
"""


def render(root: click.Group) -> str:
    """Return the page for ``root`` and all commands below it."""
    sections = [_section(names, command) for names, command in _walk(("tacit",), root)]
    return HEAD + "".join(f"\n{section}" for section in sections)


def _walk(names: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield names, command
    if not isinstance(command, click.Group):
        return
    context = click.Context(command, info_name=names[-1])
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        if below is None:
            raise LookupError(f"{' '.join(names)} lists {name!r} but does not have it.")
        if not below.hidden:
            yield from _walk((*names, name), below)


def _section(names: tuple[str, ...], command: click.Command) -> str:
    title = " ".join(names)
    text = inspect.cleandoc(command.help or "").split("\f")[0].rstrip()
    parts = [
        f"{'#' * min(len(names) + 1, 4)} {title}\n",
        f"```\n{_usage(title, command)}\n```\n",
        f"{_escaped(text)}\n",
    ]
    rows = [_row(param) for param in command.params if isinstance(param, click.Option) and not param.hidden]
    if rows:
        parts.append("| option | |\n|---|---|\n" + "".join(rows))
    if command.epilog:
        parts.append(f"{_escaped(inspect.cleandoc(command.epilog))}\n")
    return "\n".join(parts)


def _usage(title: str, command: click.Command) -> str:
    words = [title]
    if any(isinstance(param, click.Option) for param in command.params):
        words.append("[OPTIONS]")
    words += [_argument(param) for param in command.params if isinstance(param, click.Argument)]
    if isinstance(command, click.Group):
        words.append("COMMAND …")
    return " ".join(words)


def _argument(param: click.Argument) -> str:
    word = param.metavar or _choices(param) or str(param.name).upper()
    if param.nargs != 1 and not word.endswith("..."):
        word += "..."
    return word if param.required else f"[{word}]"


def _row(param: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    if not param.is_flag:
        word = param.metavar or _choices(param) or param.type.name.upper().split(" ")[0]
        names = f"{names} `{word}`"
    text = param.help or ""
    if param.required:
        text += " Required."
    if param.multiple:
        text += " May be given several times."
    if param.show_default and not param.is_flag:
        text += f" Default: `{param.default}`."
    return f"| {_cell(names)} | {_cell(_escaped(text))} |\n"


def _choices(param: click.Parameter) -> str:
    return "|".join(str(choice) for choice in param.type.choices) if isinstance(param.type, click.Choice) else ""


def _escaped(text: str) -> str:
    """Return ``text`` with nothing in it that Markdown would take for a tag."""
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the page, or with --check compare; the exit status."""
    if arguments not in ([], ["--check"]):
        print("Usage: python docs/make_cli.py [--check]", file=sys.stderr)
        return 2
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from federation.cli.app import cli

    page = render(cli)
    if not arguments:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print("docs/cli.md is stale: run `python docs/make_cli.py`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
