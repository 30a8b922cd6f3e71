"""What mkdocs calls while it builds the site.

It adds pages that don't lie in docs/, leads links to them, and looks for whatever a page would fetch from elsewhere.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from docs.generation.commands import commands_page
from docs.generation.offline import foreign_resources
from docs.generation.python_names import MODULES, python_page
from docs.generation.recipe_fields import recipe_page

__all__ = ["GENERATED", "ROOT_FILES", "on_files", "on_page_markdown", "on_post_page", "site_markdown"]

logger = logging.getLogger("mkdocs.hooks")  # its warnings are errors of `mkdocs build --strict`

_ROOT = Path(__file__).resolve().parents[2]

ROOT_FILES = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "EXPERIMENTS.md": "EXPERIMENTS.md",
    "LICENSE": "LICENSE",
    "teachers/weights/tiny-mask2former/README.md": "tiny-mask2former.md",
    "teachers/weights/tiny-sam2/README.md": "tiny-sam2.md",
}
"""Files outside of docs/ that the site has, by their path in the repository, with their path in the site."""

GENERATED: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/recipe.md": recipe_page,
    **{f"reference/{package}.md": partial(python_page, package) for package in MODULES},
}
"""Pages that are made of code."""

_MARK = re.compile(r"^<!-- (?:run|not run: [^\n]+|tested: [^\n]+) -->\n", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)(?P<path>[^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the files of the root and the generated pages."""
    for name, place in ROOT_FILES.items():
        files.append(File.generated(config, place, content=(_ROOT / name).read_text()))
    for place, make in GENERATED.items():
        files.append(File.generated(config, place, content=make()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Takes the marks of blocks out, and leads links to where their files are in the site."""
    del config, files
    return site_markdown(markdown, page.file.src_uri)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warns of scripts, styles, fonts and pictures that a browser would ask others for."""
    del config
    for address in foreign_resources(output):
        logger.warning("%s asks for %s: the site has to work without a network", page.file.src_uri, address)
    return output


def site_markdown(markdown: str, place: str) -> str:
    """A page as the site needs it.

    Args:
        markdown: as it stands in the repository, where links lead through the repository's folders.
        place: its path in the site.
    """
    in_repository = {site: name for name, site in ROOT_FILES.items()}.get(place, f"docs/{place}")
    folder = posixpath.dirname(in_repository)

    def lead(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match["path"]))
        if not (_ROOT / target).is_file():
            return match["path"]
        site = ROOT_FILES.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(site, posixpath.dirname(place) or ".")

    return _LINK.sub(lead, _MARK.sub("", markdown))
