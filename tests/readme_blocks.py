"""Runs the code blocks of the README and of the pages named below, as a reader would: `python -m tests.readme_blocks`.

With names behind it, those of these documents alone; some need what the README's blocks leave in `runs/`.

A block is run after the line `<!-- run -->`, and left alone after `<!-- not run: reason -->` and after
`<!-- tested: file of the test that executes it -->`; one without a mark is an error, so that none goes
stale unseen (`tests/unit/docs/test_pages.py` says so sooner). It is a program and no test: blocks may
call `make`, which calls the tests.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "docs/command-line.md",
    "docs/tutorial.md",
    "docs/curation.md",
    "docs/own-data.md",
    "docs/corpora.md",
    "docs/benchmark-building.md",
    "docs/student.md",
    "docs/teachers.md",
    "docs/features.md",
    "docs/lineage.md",
    "docs/training.md",
    "docs/evaluation.md",
    "docs/cluster.md",
    "docs/retraining.md",
    "docs/observability.md",
    "docs/study.md",
    "docs/tiny_teachers.md",
    "docs/howto/new-teacher.md",
    "docs/howto/new-family.md",
    "docs/howto/object-storage.md",
    "docs/howto/resume.md",
    "docs/howto/budget.md",
)
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>run|not run: [^\n]+|tested: [^\n]+) -->\n)?"
    r"```(?P<language>bash|diff|python)(?: title=\"(?P<title>[^\"\n]+)\")?\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

logger = logging.getLogger("readme")


@dataclass(frozen=True)
class Block:
    """One fenced block: its line in the document, its language, its text and what its mark says."""

    line: int
    language: str
    code: str
    mark: str | None
    title: str | None = None
    """The file that it is, or that it changes."""

    def command(self) -> list[str]:
        """The program that runs it."""
        if self.language == "python":
            return [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", self.code]
        return ["bash", "-euo", "pipefail", "-c", self.code]


def read_blocks(text: str) -> list[Block]:
    """All bash, diff and python blocks of a Markdown text, in order."""
    return [
        Block(
            text.count("\n", 0, match.start("code")) + 1,
            match["language"],
            match["code"],
            match["mark"],
            match["title"],
        )
        for match in BLOCK.finditer(text)
    ]


def main() -> int:
    """Runs what is marked to be run, of the documents given or of all; 1 if a block fails or lacks a mark."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    environment = {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    failed: list[str] = []
    blocks = [(name, block) for name in sys.argv[1:] or DOCUMENTS for block in read_blocks((ROOT / name).read_text())]
    for name, block in blocks:
        where = f"{name}:{block.line}"
        if block.mark != "run":
            logger.info(
                "%s: %s", where, block.mark or "no mark: put `<!-- run -->` or `<!-- not run: reason -->` above"
            )
            failed += [f"{where} has no mark"] if block.mark is None else []
            continue
        logger.info("%s: running\n%s", where, block.code.rstrip())
        start_s = time.monotonic()
        result = subprocess.run(block.command(), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False)
        logger.info("%s: exit %d after %.0f s", where, result.returncode, time.monotonic() - start_s)
        failed += [f"{where} ended with {result.returncode}"] if result.returncode else []
    logger.info("%d blocks, failed: %s", len(blocks), "; ".join(failed) or "none")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
