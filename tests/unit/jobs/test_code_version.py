"""Which code made an output: commit and changes of a working tree, and a key over the sources anywhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

from jobs.code_version import code_version, code_version_at


def write_sources(folder: Path) -> Path:
    for name in ("jobs/a.py", "storage/deep/b.py", "sailloft.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_working_tree_tells_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    tree = write_sources(tmp_path)
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "first")
    clean = code_version_at(tree)
    assert (clean.commit, clean.changed) == (git(tree, "rev-parse", "HEAD"), False)
    (tree / "notes.txt").write_text("not the program")
    assert code_version_at(tree) == clean
    (tree / "storage/deep/b.py").write_text("# other\n")
    changed = code_version_at(tree)
    assert (changed.commit, changed.changed) == (clean.commit, True)
    assert changed.sources != clean.sources
    assert "with changes" in str(changed)
    assert "with changes" not in str(clean)


def test_a_folder_inside_another_repository_does_not_take_its_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "theirs.txt").write_text("theirs")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "theirs")
    inside, outside = write_sources(tmp_path / "site"), write_sources(tmp_path / "elsewhere")
    assert code_version_at(inside).commit != git(tmp_path, "rev-parse", "HEAD")
    assert code_version_at(inside).changed is None
    assert code_version_at(inside).sources == code_version_at(outside).sources


def test_this_code_has_a_key() -> None:
    assert code_version() is code_version()
    assert code_version().sources == code_version_at(Path(__file__).resolve().parents[3]).sources
