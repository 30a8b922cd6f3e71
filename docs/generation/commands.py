"""The command line as a page, from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from jobs.cli import app

__all__ = ["commands_page"]

_INTRODUCTION = """\
# Command line

Made from the commands themselves: what `sailloft COMMAND --help` shows. Commands that take a recipe take `FIELD=VALUE`
behind it ([the fields](recipe.md)). What holds for all of them, exit codes among it, is in
[the command line](../command-line.md).
"""


def commands_page() -> str:
    """All commands with their arguments, options and examples, as Markdown."""
    root: Any = typer.main.get_command(app)
    return "\n".join([_INTRODUCTION, *_sections(root, "sailloft", 2)])


def _sections(command: Any, name: str, level: int) -> Iterator[str]:
    """A command and, behind it, those below it. Typer carries its own copy of click, whose types aren't public."""
    context = command.make_context(name, [], resilient_parsing=True)
    yield f"{'#' * level} {name}\n"
    yield f"{_prose(command.help or '')}\n"
    below: dict[str, Any] = getattr(command, "commands", {})
    pieces = ["COMMAND ..."] if below else command.collect_usage_pieces(context)[1:]
    yield "```text\n" + " ".join([name, "[OPTIONS]", *(_piece(piece) for piece in pieces)]) + "\n```\n"
    rows = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [row for row in rows if row and row[0] != "--help" and not row[0].startswith("-h,")]
    if rows:
        yield "| | |\n|---|---|"
        yield from (f"| `{names}` | {_cell(text)} |" for names, text in rows)
        yield ""
    if command.epilog:
        yield "```text\n" + "\n".join(_examples(command.epilog)) + "\n```\n"
    for child, one in below.items():
        if not one.hidden:
            yield from _sections(one, f"{name} {child}", level + 1 if level == 2 and name != "sailloft" else level)


def _piece(usage: str) -> str:
    """An argument of a usage line without click's doubled brackets: `[FIELD=VALUE]...`."""
    return usage.strip("{}").replace("[[", "[").replace("]...]...", "]...")


def _prose(text: str) -> str:
    return re.sub(r"(?<=\s)(--[a-z][a-z-]*)", r"`\1`", _escaped(text.strip()))


def _cell(text: str) -> str:
    return _prose(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*").replace("[SEG]", "`[SEG]`")


def _examples(epilog: str) -> list[str]:
    """The command lines of an epilog: one a line, or between bars."""
    text = re.sub(r"^\s*Examples?:\s*", "", epilog.replace("\b", "").strip())
    return [line.strip() for part in text.splitlines() for line in re.split(r"\s{2,}\|\s{2,}", part) if line.strip()]
