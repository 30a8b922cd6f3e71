"""The README of an export: what it is, and the warnings of the corpus that it comes from."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from pipelines.curation.cards.text import warnings_of
from pipelines.curation.exports.chosen import Chosen

__all__ = ["export_readme"]


def export_readme(chosen: Chosen, head: Mapping[str, object], layout: str) -> str:
    """The text.

    Args:
        chosen: what was exported.
        head: YAML in front of it; empty: none.
        layout: how the files are to be read, in Markdown.
    """
    manifest = chosen.corpus.manifest
    before, after = warnings_of(manifest.facts)
    parts = [*before, f"# Export of corpus {manifest.key[:12]}", *after]
    for what, words in (("splits", chosen.splits), ("families", chosen.families)):
        if words is not None:
            parts.append(f"Only {what} {', '.join(f'`{word}`' for word in sorted(words))}.")
    parts += [layout, "Licences and counts stand in the card of the corpus; those of its sources apply."]
    shown = f"---\n{yaml.safe_dump(dict(head), sort_keys=False)}---\n\n" if head else ""
    return shown + "\n\n".join(parts) + "\n"
