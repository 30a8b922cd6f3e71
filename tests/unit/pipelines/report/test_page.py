from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from pipelines.report import ReportInputs, build_report, render_report, report_key
from storage.manifest import verify_manifest
from storage.objects import Objects

VOID = {"meta", "img", "br", "line", "rect", "polyline"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and gathers what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.ids: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "xlink:href"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id" and value:
                self.ids.add(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_page_loads_and_runs_nothing_whatever_the_data_say(inputs: ReportInputs) -> None:
    html = render_report(inputs)
    page = parsed(html)
    assert "script" not in page.tags
    assert page.handlers == []
    assert all(link.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#")) for link in page.links)
    assert re.search(r"url\(|@import", html) is None
    assert page.text.count("alert('x')") >= 5
    assert "default-src 'none'" in html


def test_every_section_is_there_and_linked(inputs: ReportInputs) -> None:
    page = parsed(render_report(inputs))
    linked = {link[1:] for link in page.links if link.startswith("#")}
    assert linked == {"scores", "predictions", "prompts", "teachers", "training", "data", "run"}
    assert linked <= page.ids


def test_page_states_scores_controls_targets_and_warnings(inputs: ReportInputs) -> None:
    text = re.sub(r"\s+", " ", parsed(render_report(inputs)).text)
    for words in (
        "0.700",
        "90 % interval 0.650 \u2013 0.750",
        "0.200",
        "0.100",
        "met: finds it at least 0.60; it is 0.700",
        "not met: reads it at most 25%; it is 29%",
        "not measured: elsewhere at least 0.10; not measured",
        "Splits were given another name",
        "refs.p: testA is used as train",
        "1:05 min",
        "not known",
        "7 samples on 5 pictures; 6 records rejected",
        "mask empty 5",
        "image missing 1",
        "a moved answer",
        "PerBench has no score: no sample of family <",
        "referring, in part: no question of split testB",
        "c" * 64,
    ):
        assert words in text, words


def reading(stalled: float, samples_per_s: float, memory_gib: float) -> dict[str, float]:
    """Of steps of a second each, which wait for storage alone."""
    return {
        "step_s": 1.0,
        "stall_share": stalled,
        "stall/storage": stalled,
        "samples_per_s": samples_per_s,
        "memory_gib": memory_gib,
    }


def test_training_shows_validation_and_where_its_time_went(inputs: ReportInputs) -> None:
    shown = dataclasses.replace(
        inputs,
        validation=[{"step": 4, "cIoU": 0.25}, {"step": 8, "cIoU": 0.5}],
        speed=[
            {"step": 2.0, **reading(stalled=0.5, samples_per_s=2.0, memory_gib=1.5)},
            {"step": 8.0, **reading(stalled=0.1, samples_per_s=4.0, memory_gib=1.0)},
        ],
    )
    page = parsed(render_report(shown))
    text = re.sub(r"\s+", " ", page.text)
    assert text.index("validation: cIoU") < text.index("all terms together")
    # Two steps with a half lost and six with a tenth: a fifth in all.
    for words in ("training 80.0 %", "waiting for storage 20.0 %", "samples/s 3.5", "stalled 20.0%", "1.50 GiB"):
        assert words in text, words
    assert "waiting for storage" not in parsed(render_report(inputs)).text


def test_best_middle_and_worst_are_told_apart(inputs: ReportInputs) -> None:
    text = parsed(render_report(dataclasses.replace(inputs, num_examples=1))).text
    best, middle, worst, absent = (
        text.index(word) for word in ("closest to the truth", "half of all answers", "what it gets wrong", "Nothing to")
    )
    assert "the left 4" in text[best:middle]
    assert "the left 2" in text[middle:worst]
    assert "the left 0" in text[worst:absent]
    assert "right: no target" in text[absent:]


def test_same_inputs_same_page(inputs: ReportInputs) -> None:
    assert render_report(inputs) == render_report(inputs)


def test_page_without_results_still_shows_the_data(inputs: ReportInputs) -> None:
    bare = ReportInputs(recipe={}, corpus=inputs.corpus)
    page = parsed(render_report(bare))
    assert {link for link in page.links if link.startswith("#")} == {"#data", "#run"}


def test_report_is_written_once(inputs: ReportInputs, tmp_path) -> None:
    output = Objects.open(str(tmp_path / "report"))
    manifest = build_report(inputs, output)
    verify_manifest(output)
    assert manifest.key == report_key(manifest.recipe, {"curate": "c" * 64, "evaluate": "e" * 64})
    page = output.read("report.html")
    again = build_report(dataclasses.replace(inputs, stage_seconds={"curate": 99.0}), output)
    assert again == manifest
    assert output.read("report.html") == page


def test_report_killed_before_its_manifest_is_finished(inputs: ReportInputs, tmp_path) -> None:
    output = Objects.open(str(tmp_path / "report"))
    output.create("report.html", b"written before the kill")
    assert build_report(inputs, output).files[0].size_bytes == len(b"written before the kill")
    verify_manifest(output)


def test_teachers_show_only_pictures_that_all_of_them_have_seen(inputs: ReportInputs) -> None:
    html = render_report(dataclasses.replace(inputs, num_examples=9))
    section = html[html.index('id="teachers"') : html.index('id="training"')]
    assert section.count("<figcaption>picture") == 4
    assert section.count("<figcaption>sam2") == 4


@pytest.mark.parametrize("missing", ["features", "metrics", "predictions"])
def test_absent_parts_leave_no_empty_section(inputs: ReportInputs, missing: str) -> None:
    page = parsed(render_report(dataclasses.replace(inputs, **{missing: ()})))
    gone = {"features": {"teachers"}, "metrics": {"training"}, "predictions": {"predictions", "prompts"}}[missing]
    assert not gone & page.ids


def test_page_shows_where_the_student_fails(inputs: ReportInputs) -> None:
    rows = [
        dataclasses.replace(row, truth_area_px=20_000 if place % 2 else 50, score=place / len(inputs.predictions))
        for place, row in enumerate(inputs.predictions)
    ]
    page = parsed(render_report(dataclasses.replace(inputs, predictions=rows)))
    assert "zoo" in page.ids
    for words in ("Where it does well and where it fails", "by object size", "small (under 32² px)", "Most uncertain"):
        assert words in page.text
    assert "#zoo" in page.links
