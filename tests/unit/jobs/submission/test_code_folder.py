"""What of a folder travels: modules; neither data, weights, links, environments nor secrets."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from jobs.submission.code_folder import CodeFolder, gather_code
from storage.errors import UsageError

ENTRY_POINTS = """
[project]
name = "my-teacher"
version = "1.2"
[project.entry-points."sailloft.teachers"]
edges = "my_teacher.edges:EdgesConfig"
[project.entry-points.console_scripts]
other = "my_teacher:main"
"""
STAYS = {
    ".git/": "no code",
    ".venv/": "no code",
    "env/": "a virtual environment",
    "pkg/__pycache__/": "no code",
    ".env": "a secret by its name",
    ".env.local": "a secret by its name",
    ".aws/": "a secret by its name",
    "pkg/id_ed25519": "a secret by its name",
    "google-credentials-1.json": "a secret by its name",
    "data/": "data or weights: /data/",
    "pkg/weights.safetensors": "data or weights: *.safetensors",
    "photo.jpg": "data or weights: *.jpg",
    "corpus.parquet": "data or weights: *.parquet",
    "features.zarr/": "data or weights: *.zarr/",
    "link.py": "a link",
    "notes.txt": ".gitignore: *.txt",
    "pkg/slow.py": ".rayignore: slow.py",
}
TRAVELS = {"pkg/__init__.py", "pkg/data/sizes.json", "pkg/tiny.npz", "pyproject.toml", "keep.txt"}


def make(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = {
        ".git/": "config", ".venv/": "pyvenv.cfg", "env/": "pyvenv.cfg", "pkg/__pycache__/": "a.pyc",
        ".aws/": "credentials", "data/": "images.bin", "features.zarr/": "zarr.json",
    }  # fmt: skip
    files = {f"{name}{inside.get(name, '')}": "x" for name in (*STAYS, *TRAVELS) if name != "link.py"}
    rules = {".gitignore": "*.txt\n", ".rayignore": "!keep.txt\n!pkg/tiny.npz\nslow.py\n!.env\n"}
    made = make(tmp_path / "code", {**files, **rules, "pyproject.toml": ENTRY_POINTS, "pkg/__init__.py": "SIZE = 3\n"})
    (made / "link.py").symlink_to(make(tmp_path, {"outside.py": "secret = 1"}) / "outside.py")
    return made


def reasons(code: CodeFolder) -> dict[str, str]:
    return {item.path: item.reason for item in code.kept_out}


def test_modules_travel_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    code = gather_code(folder, 1.0)
    assert {file.path for file in code.files} == TRAVELS
    assert reasons(code) == STAYS
    target = tmp_path / "job"
    code.write(target)
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert found == TRAVELS | {path for path, _ in code.declared}
    assert code.size_bytes == sum((folder / name).stat().st_size for name in TRAVELS)


def test_entry_points_are_found_where_the_job_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather_code(folder, 1.0).write(tmp_path / "job")
    monkeypatch.syspath_prepend(tmp_path / "job")
    (point,) = entry_points(group="sailloft.teachers", name="edges")
    assert point.value == "my_teacher.edges:EdgesConfig"
    assert point.dist is not None
    assert (point.dist.name, point.dist.version) == ("my-teacher", "1.2")
    assert not entry_points(group="console_scripts", name="other")


def test_a_project_with_src_is_carried_as_its_modules(tmp_path: Path) -> None:
    files = {"pyproject.toml": ENTRY_POINTS, "src/my_teacher/edges.py": "", "tests/test_edges.py": ""}
    code = gather_code(make(tmp_path / "code", files), 1.0)
    assert [file.path for file in code.files] == ["my_teacher/edges.py"]
    assert [path for path, _ in code.declared] == [
        "my_teacher-1.2.dist-info/METADATA", "my_teacher-1.2.dist-info/entry_points.txt",
    ]  # fmt: skip


def test_the_key_follows_what_travels(folder: Path) -> None:
    key = gather_code(folder, 1.0).key
    (folder / "notes.txt").write_text("other")
    assert gather_code(folder, 1.0).key == key
    (folder / "pkg/__init__.py").write_text("SIZE = 4\n")
    changed = gather_code(folder, 1.0).key
    assert changed != key
    (folder / "pyproject.toml").write_text(ENTRY_POINTS.replace("edges =", "ridges ="))
    assert gather_code(folder, 1.0).key not in {key, changed}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.pt": "x"}, "nothing in it travels"),
        ({"model/__init__.py": ""}, "model would stand in the way of Sailloft's own"),
        ({"recipe.yaml": "name: x"}, r"recipe\.yaml would stand in the way"),
        ({"a.py": "x" * 3000, "b/c.py": "x" * 9000}, r"at most 0\.01 may; the largest: b/c\.py .*, a\.py"),
        (
            {"a.py": "KEY = 1\nID = 'AKIAIOSFODNN7EXAMPLE'\n"},
            r"a\.py, line 2, looks like an AWS access key; ",
        ),
        ({"b.md": "-----BEGIN OPENSSH PRIVATE KEY-----\n"}, r"b\.md, line 1, looks like a private key"),
        ({"requirements.txt": "--index-url https://ci:hush@index/simple"}, "line 1, looks like a password in a URL"),
        ({"pyproject.toml": "[project"}, r"pyproject\.toml can't be read"),
    ],
)
def test_what_may_not_travel(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gather_code(make(tmp_path / "code", files), 0.01)


def test_a_secret_is_not_repeated_in_the_message(tmp_path: Path) -> None:
    token = "hf_" + "a1B2" * 10
    with pytest.raises(UsageError, match="looks like a Hugging Face token") as caught:
        gather_code(make(tmp_path / "code", {"a.py": f"T = '{token}'"}), 1.0)
    assert token not in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder, found none"):
        gather_code(tmp_path / "absent", 1.0)
