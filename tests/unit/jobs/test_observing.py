"""Processes of a Ray session hand in what they see: figures, log lines, requests, seconds."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.config import load_recipe
from jobs.figures import FigureSums
from jobs.flow import Stage
from jobs.ledger import Report
from jobs.logs import LogFormat, LogSettings, set_up_logging
from jobs.observing import THIS_PROCESS, RunObserver
from jobs.run_watch import RunWatch
from pipelines.observer import NULL_OBSERVER, Observer, current_observer
from storage.objects import Objects
from storage.run_records import find_runs, read_run
from tests.metrics_page import wait_for_figures

LOCAL = RunObserver("demo-1", "curate", LogSettings(), has_ledger=False)


@contextmanager
def driving() -> Iterator[FigureSums]:
    sums = FigureSums()

    def add(report: Report) -> None:
        sums.merge(report.sums)

    with THIS_PROCESS.driving(add):
        yield sums


def test_nobody_watches_unless_told_to() -> None:
    observer = current_observer()
    assert observer is NULL_OBSERVER
    assert observer.labels == {}
    with observer.here():
        observer.count("no such figure", 1, any="label")
        observer.set("no such figure", 1)
        observer.observe("no such figure", 1)


def test_requests_of_the_driver_belong_to_the_stage_that_it_is_at() -> None:
    objects = Objects.open("memory://observing")
    with driving() as sums:
        objects.put("before", b"1")
        for stage, number in (("curate", 2), ("train", 3)):
            with RunObserver("demo-1", stage, LogSettings(), has_ledger=False).here("driver"):
                assert current_observer().labels == {"run": "demo-1", "stage": stage}
                for place in range(number):
                    objects.put(f"{stage}{place}", b"12")
    assert current_observer() is NULL_OBSERVER
    assert sums.total("sailloft_storage_requests_total", stage="curate", request="put") == 2
    assert sums.total("sailloft_storage_bytes_total", stage="train", direction="written") == 6
    assert sums.total("sailloft_worker_cpu_seconds_total") == 0


def test_nested_blocks_are_of_the_inner_stage_and_then_of_the_outer_one() -> None:
    with driving(), LOCAL.here("driver"):
        with RunObserver("demo-1", "train", LogSettings(), has_ledger=False).here("driver"):
            assert current_observer().labels["stage"] == "train"
        assert current_observer().labels["stage"] == "curate"


def work(observer: Observer, url: str) -> None:
    with observer.here("decoder"):
        observer.count("sailloft_images_total", 3, outcome="taught")
        observer.observe("sailloft_step_seconds", 0.3)
        observer.set("sailloft_loss", 0.5)
        Objects.open(url).put("by-a-task", b"12345")
        logging.getLogger("pipelines").warning("slow, %d s", 7, extra={"fields": {"seconds": 7}})
        time.sleep(0.6)


class Actor:
    def __init__(self, observer: Observer) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(observer.here("teacher"))

    def stage(self) -> str:
        return current_observer().labels["stage"]

    def work(self) -> None:
        current_observer().count("sailloft_images_total", 4, outcome="taught")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_tasks_and_actors_hand_in_what_they_see(tmp_path: Path) -> None:
    import ray

    log = tmp_path / "log.jsonl"
    set_up_logging(LogSettings(LogFormat.JSON, logging.INFO, str(log)))
    workspace = Objects.open(tmp_path / "w")
    watch = RunWatch(workspace, load_recipe("smoke", [f"workspace={workspace.url}"]))
    stage = Stage("observed here", "teach", (), lambda outputs, progress: None, lambda outputs, located, progress: None)
    try:
        with watch.watching(), watch.on_ray():
            observer = watch._observer(stage.name)
            actor: Any = ray.remote(num_cpus=0.5)(Actor).remote(observer)
            assert ray.get(actor.stage.remote()) == stage.name
            ray.get([ray.remote(num_cpus=1)(work).remote(observer, str(tmp_path)) for _ in range(2)])
            ray.get(actor.work.remote())
            wanted = ("ray_sailloft_images_total", (("outcome", "taught"), ("stage", stage.name)))
            shown = wait_for_figures(lambda shown: shown.get(wanted) == 10)
            time.sleep(2.5)  # what processes hold back before they hand it in
        watch.finish()
    finally:
        set_up_logging(LogSettings())
    assert shown[wanted] == 10
    of_stage = (("stage", stage.name),)
    assert shown["ray_sailloft_step_seconds_count", of_stage] == 2
    assert shown["ray_sailloft_step_seconds_bucket", (("le", "0.25"), *of_stage)] == 0
    assert shown["ray_sailloft_step_seconds_bucket", (("le", "0.5"), *of_stage)] == 2
    requests = (("request", "put"), ("scheme", "file"), *of_stage)
    assert shown["ray_sailloft_storage_requests_total", requests] == 2
    (run,) = find_runs(workspace)
    record = read_run(workspace, run)
    assert record is not None
    figures = {(row["name"], row.get("direction") or row.get("outcome")): row for row in record.newest["figures"]}
    assert figures["sailloft_images_total", "taught"]["value"] == 10
    assert figures["sailloft_step_seconds", None]["counts"][5] == 2
    assert figures["sailloft_storage_bytes_total", "written"]["value"] == 10
    assert record.newest["costs"]["cpu_s"] > 2 * 0.6
    lines = [event for event in record.events if event["kind"] == "log"]
    assert [(line["message"], line["process"]["role"]) for line in lines] == [("slow, 7 s", "decoder")] * 2
    assert (lines[0]["run"], lines[0]["stage"], lines[0]["fields"]) == (run, stage.name, {"seconds": 7})
    assert record.events[0]["kind"] == "cluster"
    assert record.events[0]["nodes"][0]["nodes"] == 1
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    joined = [line for line in logged if line["message"] == "a process works for observed here"]
    assert {line["process"]["role"] for line in joined} == {"decoder", "teacher"}
    assert all(line["run"] == run for line in joined)
