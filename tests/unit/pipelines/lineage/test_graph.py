"""Graphs of outputs: links by name, trees in which each output goes on at the nearest place, chains of bases."""

from __future__ import annotations

import pytest

from pipelines.lineage.graph import Branch, bases_of, find_output, made_of, tree_of, went_into
from pipelines.lineage.outputs import Kind, Output
from storage.errors import UsageError
from storage.stage_notes import StageNote

NOTE = StageNote(1.0, 1, (), {"curate": "corpus"})
OUTPUTS = {
    output.key: output
    for output in (
        Output(Kind.SCENES, "scenes", ""),
        Output(Kind.CORPUS, "corpus0", "", inputs={"0:refs.p": "d"}),
        Output(Kind.CORPUS, "corpus", "", inputs={"scenes": "scenes"}, facts={"parents": ["corpus0", "gone"]}),
        Output(Kind.CALIBRATION, "calibration", "", inputs={"features": "f"}, facts={"encoding": "klt:1"}, note=NOTE),
        Output(Kind.PART, "part", "", inputs={"teacher": "weights"}),
        Output(Kind.STORE, "store", "", inputs={"part 0": "part"}, facts={"encoding": "klt:1"}),
        Output(Kind.FEATURES, "features", "", inputs={"corpus": "corpus", "store": "store"}),
        Output(Kind.CHECKPOINT, "first", "", inputs={"corpus": "corpus"}, base="s3://elsewhere/base"),
        Output(Kind.CHECKPOINT, "second", "", inputs={"corpus": "corpus", "features/sam2": "features"}, base="first"),
        Output(Kind.SCORES, "scores", "", inputs={"corpus": "corpus", "checkpoint": "second"}),
    )
}


def links(key: str) -> list[tuple[str, str]]:
    return [(link.name, link.key) for link in made_of(OUTPUTS, OUTPUTS[key])]


def paths(branch: Branch) -> dict[str, str]:
    """Where each output goes on, as a path of keys; every output at most once."""
    found: dict[str, str] = {}

    def walk(branch: Branch, path: str) -> None:
        if branch.link.output is not None and not branch.is_repeated:
            assert branch.link.key not in found
            found[branch.link.key] = path
        for following in branch.branches:
            walk(following, f"{path}/{following.link.key}")

    walk(branch, branch.link.key)
    return found


def test_links_are_inputs_and_what_else_is_known() -> None:
    assert links("corpus") == [("parent", "corpus0"), ("scenes", "scenes")]
    assert links("corpus0") == [("0:refs.p", "d")]
    assert links("calibration") == [("features", "f"), ("fitted on", "corpus")]
    assert links("store") == [("calibration", "calibration"), ("part 0", "part")]
    assert links("second") == [("base", "first"), ("corpus", "corpus"), ("features/sam2", "features")]
    assert links("first") == [("base", "s3://elsewhere/base"), ("corpus", "corpus")]
    assert [link.output for link in made_of(OUTPUTS, OUTPUTS["part"])] == [None]


def test_a_tree_goes_on_at_the_nearest_place() -> None:
    tree = tree_of(OUTPUTS["scores"], lambda output: made_of(OUTPUTS, output))
    assert paths(tree) == {
        "scores": "scores",
        "second": "scores/second",
        "corpus": "scores/corpus",
        "first": "scores/second/first",
        "features": "scores/second/features",
        "scenes": "scores/corpus/scenes",
        "corpus0": "scores/corpus/corpus0",
        "store": "scores/second/features/store",
        "calibration": "scores/second/features/store/calibration",
        "part": "scores/second/features/store/part",
    }


def test_forward_is_backward_turned_around() -> None:
    forward = went_into(OUTPUTS)
    turned = {(link.key, key, link.name) for key, found in forward.items() for link in found}
    assert turned == {(key, link.key, link.name) for key in OUTPUTS for link in made_of(OUTPUTS, OUTPUTS[key])}
    ahead = tree_of(OUTPUTS["part"], lambda output: forward.get(output.key, []))
    assert paths(ahead) == {
        "part": "part",
        "store": "part/store",
        "features": "part/store/features",
        "second": "part/store/features/second",
        "scores": "part/store/features/second/scores",
    }


def test_bases_are_followed_as_far_as_they_are_known() -> None:
    assert [base.key for base in bases_of(OUTPUTS, OUTPUTS["second"])] == ["first"]
    circle = {key: Output(Kind.CHECKPOINT, key, "", base=other) for key, other in (("a", "b"), ("b", "a"))}
    assert [base.key for base in bases_of(circle, circle["a"])] == ["b"]


def test_addresses_are_found_by_their_first_digits() -> None:
    assert find_output(OUTPUTS, "scor") == OUTPUTS["scores"]
    assert find_output(OUTPUTS, "nothing") is None
    with pytest.raises(UsageError, match=r"expected one output, found 2 \(corpus corpus, corpus corpus0\); give more"):
        find_output(OUTPUTS, "corp")
    with pytest.raises(UsageError, match="expected at least 4 digits"):
        find_output(OUTPUTS, "sco")
