"""The pages: each is in the navigation of the site, and each block of commands is executed or says why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from docs.generation.hooks import GENERATED, ROOT_FILES, on_post_page, site_markdown
from docs.generation.offline import foreign_resources
from tests.readme_blocks import DOCUMENTS, read_blocks

_ROOT = Path(__file__).resolve().parents[3]
_PAGES = sorted([*(_ROOT / "docs").rglob("*.md"), _ROOT / "README.md", _ROOT / "CONTRIBUTING.md"])
_COMMANDS = {"bash", "diff", "python"}
_DATA = {"json", "text", "toml", "yaml"}
"""What a fence may hold without being executed."""


def _name(page: Path) -> str:
    return page.relative_to(_ROOT).as_posix()


def _code(page: Path) -> list[Token]:
    """Fences and indented blocks, as Markdown has it and not as our own pattern does."""
    return [token for token in MarkdownIt().parse(page.read_text()) if token.type in ("fence", "code_block")]


def _language(token: Token) -> str:
    return token.info.partition(" ")[0]


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_every_block_of_commands_is_executed_or_says_why_not(page: Path) -> None:
    code = _code(page)
    assert [token.map for token in code if _language(token) not in _COMMANDS | _DATA] == [], "of no known language"
    blocks = read_blocks(page.read_text())
    assert [block.code for block in blocks] == [token.content for token in code if _language(token) in _COMMANDS]
    unmarked = [block.line for block in blocks if block.mark is None]
    assert unmarked == [], "put `<!-- run -->`, or `<!-- not run: reason -->`"
    for test in {block.mark.removeprefix("tested: ") for block in blocks if (block.mark or "").startswith("tested: ")}:
        assert _name(page) in (_ROOT / test).read_text(), f"{test} doesn't execute it"


def test_all_pages_with_blocks_are_among_those_that_are_run() -> None:
    assert set(DOCUMENTS) == {_name(page) for page in _PAGES if read_blocks(page.read_text())}


def _navigation() -> Iterator[str]:
    def leaves(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        else:
            for one in node.values() if isinstance(node, dict) else node:
                yield from leaves(one)

    return leaves(yaml.safe_load((_ROOT / "mkdocs.yml").read_text())["nav"])


def test_every_page_is_in_the_navigation_once() -> None:
    found = list(_navigation())
    of_docs = {page.relative_to(_ROOT / "docs").as_posix() for page in (_ROOT / "docs").rglob("*.md")}
    assert sorted(found) == sorted({*of_docs, *GENERATED, *(x for x in ROOT_FILES.values() if x.endswith(".md"))})


@pytest.mark.parametrize(
    ("place", "link", "led_to"),
    [
        ("index.md", "docs/design.md#trust", "design.md#trust"),
        ("index.md", "LICENSE", "LICENSE"),
        ("tutorial.md", "../EXPERIMENTS.md", "EXPERIMENTS.md"),
        ("howto/resume.md", "../../CHANGELOG.md", "../CHANGELOG.md"),
        ("howto/resume.md", "../training.md#interruptions", "../training.md#interruptions"),
        ("howto/resume.md", "../../README.md", "../index.md"),
        ("tiny_teachers.md", "../teachers/weights/tiny-sam2/README.md", "tiny-sam2.md"),
        ("design.md", "https://example.org/x.md", "https://example.org/x.md"),
        ("design.md", "no-such-page.md", "no-such-page.md"),
    ],
)
def test_links_lead_to_the_same_files_in_the_site(place: str, link: str, led_to: str) -> None:
    assert site_markdown(f"See [this]({link}).", place) == f"See [this]({led_to})."


def test_marks_of_blocks_are_not_shown() -> None:
    text = "".join(f"<!-- {mark} -->\n```bash\nls\n```\n" for mark in ("run", "not run: x", "tested: tests/x.py"))
    assert site_markdown(text, "design.md") == "```bash\nls\n```\n" * 3


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<a href="https://example.org/">x</a><link rel="canonical" href="https://example.org/">', []),
        ('<script src="assets/a.js"></script><img src="data:image/png;base64,AA=="><img src="a.png">', []),
        ('<script src="https://example.org/a.js"></script>', ["https://example.org/a.js"]),
        ('<link rel="stylesheet" href="//example.org/a.css">', ["//example.org/a.css"]),
        ('<link rel="preconnect" href="https://example.org">', ["https://example.org"]),
        ('<iframe src="http://example.org/">', ["http://example.org/"]),
        ("<style>@font-face{src:url('https://example.org/a.woff')}</style>", ["https://example.org/a.woff"]),
    ],
)
def test_whatever_a_browser_would_ask_others_for_is_found(html: str, found: list[str]) -> None:
    assert foreign_resources(f"<html><body>{html}</body></html>") == found


def test_a_page_that_asks_for_something_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="design.md"))
    html = '<img src="https://example.org/a.png">'
    assert on_post_page(html, page, None) == html
    assert "design.md asks for https://example.org/a.png" in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING"]
