"""Stages run once, in order, within at most one session, and leave a note of their time."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from jobs.code_version import code_version
from jobs.display import PlainDisplay
from jobs.flow import Located, Outputs, Stage, State, Timings, run_stages
from pipelines.progress import Progress
from storage.errors import InfrastructureError, SourceError, UsageError
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION
from storage.stage_notes import STAGE_NOTES, CodeVersion, StageNote, read_note, write_note


@dataclass
class Bench:
    """A workspace in memory, a counting session and stages that note their runs."""

    workspace: Objects = field(default_factory=lambda: Objects.open(f"memory://{uuid.uuid4().hex}/flow"))
    ran: list[str] = field(default_factory=list)
    num_sessions: int = 0
    stream: io.StringIO = field(default_factory=io.StringIO)

    @property
    def timings(self) -> Timings:
        return Timings(self.workspace.child("runs/times"))

    @contextmanager
    def session(self) -> Iterator[None]:
        self.num_sessions += 1
        yield

    def stage(
        self,
        name: str,
        *,
        inputs: tuple[str, ...] = (),
        needs_ray: bool = True,
        error: Exception | None = None,
        publishes: bool = True,
    ) -> Stage:
        located = Located(name * 8, self.workspace.child(f"{name}/{name * 8}"))

        def run(outputs: Outputs, target: Located, progress: Progress) -> None:
            assert target == located
            progress.update(1, 2)
            self.ran.append(f"{name} after {','.join(outputs)}" if outputs else name)
            if error is not None:
                raise error
            if publishes:
                publish(located.objects, Manifest("test", located.key, SCHEMA_VERSION, {}, {}, ()))

        return Stage(name, name, inputs, lambda outputs, progress: located, run, needs_ray)

    def run(self, stages: list[Stage]) -> list[State]:
        outcomes, outputs = run_stages(stages, PlainDisplay(self.stream), self.timings, self.session)
        assert list(outputs) == [stage.name for stage in stages]
        return [outcome.state for outcome in outcomes]


def test_a_second_run_does_nothing_and_starts_no_session() -> None:
    bench = Bench()
    stages = [bench.stage("a", needs_ray=False), bench.stage("b"), bench.stage("c")]
    assert bench.run(stages) == [State.RAN] * 3
    assert (bench.ran, bench.num_sessions) == (["a", "b after a", "c after a,b"], 1)
    assert bench.run(stages) == [State.PRESENT] * 3
    assert (bench.ran, bench.num_sessions) == (["a", "b after a", "c after a,b"], 1)
    assert "present, nothing to do" in bench.stream.getvalue()


def test_only_what_is_missing_runs_and_times_are_kept() -> None:
    bench = Bench()
    first, second = bench.stage("a"), bench.stage("b")
    bench.run([first])
    outcomes, _ = run_stages([first, second], PlainDisplay(bench.stream), bench.timings, bench.session)
    assert [item.state for item in outcomes] == [State.PRESENT, State.RAN]
    assert all(item.seconds is not None and item.num_starts == 1 for item in outcomes)
    assert bench.ran == ["a", "b after a"]


def test_an_interrupted_stage_is_begun_again() -> None:
    bench = Bench()
    with pytest.raises(SourceError, match="refs are torn"):
        bench.run([bench.stage("a"), bench.stage("b", error=SourceError("refs are torn")), bench.stage("c")])
    assert bench.ran == ["a", "b after a"]
    outcomes, _ = run_stages(
        [bench.stage("a"), bench.stage("b")], PlainDisplay(bench.stream), bench.timings, bench.session
    )
    assert [item.num_starts for item in outcomes] == [1, 2]
    assert "begun 2 times" in bench.stream.getvalue()


def test_a_stage_that_publishes_nothing_is_an_error() -> None:
    bench = Bench()
    with pytest.raises(InfrastructureError, match=r"a: expected a finished output at memory://"):
        bench.run([bench.stage("a", publishes=False)])


def test_a_torn_note_counts_as_unknown() -> None:
    bench = Bench()
    bench.workspace.put("runs/times/k.json", b'{"seconds": ')
    assert bench.timings.read("k") == (None, 0)


def test_notes_tell_code_and_inputs_of_every_start() -> None:
    bench = Bench()
    earlier = CodeVersion("0.0", "c" * 40, False, "s" * 64)
    stages = [bench.stage("a"), bench.stage("b", inputs=("a",), error=SourceError("refs are torn"))]
    with pytest.raises(SourceError, match="refs are torn"):
        bench.run(stages)
    notes = bench.workspace.child(STAGE_NOTES)
    begun = read_note(notes, "b" * 8)
    assert begun == StageNote(None, 1, (code_version(),), {"a": "a" * 8})
    write_note(notes, "b" * 8, StageNote(None, 1, (earlier,)))
    bench.run([bench.stage("a"), bench.stage("b", inputs=("a",))])
    done = read_note(notes, "b" * 8)
    assert done is not None
    assert (done.code, done.inputs, done.num_starts) == ((earlier, code_version()), {"a": "a" * 8}, 2)


def test_notes_of_early_versions_are_read() -> None:
    bench = Bench()
    bench.workspace.put("runs/times/k.json", b'{"version": 1, "seconds": 2.5, "num_starts": 3}')
    assert bench.timings.read("k") == (2.5, 3)
    assert read_note(bench.workspace.child(STAGE_NOTES), "k") == StageNote(2.5, 3)


def test_no_session_without_a_stage_that_needs_it() -> None:
    bench = Bench()
    assert bench.run([bench.stage("a", needs_ray=False)]) == [State.RAN]
    assert bench.num_sessions == 0


def test_chosen_stages_run_after_what_they_need_and_nothing_else_does() -> None:
    bench = Bench()
    stages = [bench.stage("a"), bench.stage("b", inputs=("a",)), bench.stage("c", inputs=("b",)), bench.stage("d")]

    def chosen(*only: str) -> list[tuple[str, State]]:
        outcomes, _ = run_stages(stages, PlainDisplay(bench.stream), bench.timings, bench.session, only=only)
        return [(outcome.name, outcome.state) for outcome in outcomes]

    with pytest.raises(UsageError, match=r"c: expected the output of b, .*; run that first, or add b to --stages"):
        chosen("c", "d")
    assert bench.ran == []
    assert chosen("a") == [("a", State.RAN)]
    assert chosen("b") == [("a", State.PRESENT), ("b", State.RAN)]
    assert chosen("d", "c") == [("a", State.PRESENT), ("b", State.PRESENT), ("c", State.RAN), ("d", State.RAN)]


def test_what_follows_from_a_missing_output_is_not_looked_for() -> None:
    """A stage whose inputs are missing may not be able to work out its own address."""
    bench = Bench()

    def fail(outputs: Outputs, progress: Progress | None) -> Located | None:
        raise AssertionError("looked for")

    stages = [bench.stage("a"), replace(bench.stage("b", inputs=("a",)), locate=fail), bench.stage("c")]
    outcomes, outputs = run_stages(stages, PlainDisplay(bench.stream), bench.timings, bench.session, only=["c"])
    assert [outcome.name for outcome in outcomes] == list(outputs) == ["c"]
