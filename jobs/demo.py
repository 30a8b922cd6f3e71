"""What is particular to the demo: where real photographs lie, and what to try next."""

from __future__ import annotations

from pathlib import Path

from storage.errors import UsageError

__all__ = ["demo_overrides", "next_steps"]

_NEXT = """
what next:
  sailloft demo --recipe demo-all-tasks       all tasks together on busier pictures, about 30 minutes
  sailloft demo --real DIR                    the same flow on photographs in RefCOCO layout
  sailloft run {name} student.num_layers=6    change any field; only what depends on it is made again
  sailloft run {name} --dry-run               the resolved recipe and the address of every output"""


def demo_overrides(real: Path | None, workspace: str | None) -> list[str]:
    """Overrides that stand for the demo's options.

    Args:
        real: folder in RefCOCO layout, or None for synthetic scenes.
        workspace: URL of the outputs, or None for the recipe's own.

    Raises:
        UsageError: the folder doesn't exist.
    """
    overrides: list[str] = []
    if real is not None:
        if not real.is_dir():
            raise UsageError(
                f"--real {real}: expected a folder in RefCOCO layout, found none; see `sailloft demo --help`"
            )
        overrides.append(f"curation.root={_quoted(str(real.resolve()))}")
    if workspace is not None:
        overrides.append(f"workspace={_quoted(workspace)}")
    return overrides


def next_steps(recipe: str) -> str:
    """Commands that a newcomer may try after the demo."""
    return _NEXT.format(name=recipe)


def _quoted(text: str) -> str:
    """A YAML scalar that is this text, whatever it holds."""
    return "'" + text.replace("'", "''") + "'"
