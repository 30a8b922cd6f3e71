"""What tests of several packages share: a checkpoint on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.masking_student import write_masking_student


@pytest.fixture
def masking_checkpoint(tmp_path: Path) -> Path:
    """A tiny student that knows three regions and answers with as many `[SEG]` as it may."""
    return write_masking_student(tmp_path / "student")
