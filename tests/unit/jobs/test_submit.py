"""Submission: what travels, what is refused, and that nothing is started twice. The cluster is a fake here."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import ray
import yaml

from jobs import submit
from jobs.config import load_recipe
from jobs.submission import following
from jobs.submission.order import Order
from jobs.submission.server import JobServer
from jobs.submission.versions import ClusterVersions
from jobs.submit import Travels, attach, check_workspace, describe_order, make_order, passed_environment, submit_order
from storage.errors import InfrastructureError, UsageError
from tests.fake_job_server import FakeClient, fake_server

ADDRESS = "http://head:8265"
HERE = ClusterVersions(platform.python_version(), ray.__version__, "2.13.0", "0.1.0")
MakeOrder = Callable[..., Order]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(JobServer, "connect", lambda address: fake_server(fake))
    monkeypatch.setattr(submit, "probe_versions", lambda server: HERE)
    monkeypatch.setattr(following, "_POLL_S", 0.0)
    return fake


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> MakeOrder:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("OTHER_SECRET", "hidden")

    def make(*overrides: str, **options: Any) -> Order:
        return make_order(load_recipe("smoke", ["workspace=s3://bucket/prefix", *overrides]), **options)

    return make


def test_only_the_recipe_and_named_variables_travel(client: FakeClient, order: MakeOrder) -> None:
    shown: list[str] = []
    one = order("cluster.address=ray://mine")
    done = submit_order(one, ADDRESS, write=shown.append)
    assert (done.job_id, done.exit_code, done.is_new) == (f"{one.series}-1", None, True)
    assert "".join(shown) == (
        f"job {done.job_id} handed in to {ADDRESS}\n"
        f"follow it:  sailloft submit --attach {done.job_id} --address {ADDRESS}\n"
    )
    (sent,) = client.sent
    assert list(sent) == ["recipe.yaml"]
    assert yaml.safe_load(sent["recipe.yaml"]) == one.tree
    (job,) = client.handed_in
    assert job["entrypoint"] == "exec python -m jobs run recipe.yaml"
    assert job["runtime_env"]["env_vars"]["AWS_ACCESS_KEY_ID"] == "key"
    assert "OTHER_SECRET" not in job["runtime_env"]["env_vars"]
    assert "key" not in str(job["metadata"])


def test_no_two_submissions_have_equal_files(client: FakeClient, order: MakeOrder) -> None:
    # Ray names a working directory by what it holds, and would delete the first job's under the second one.
    for _ in range(2):
        client.add(submit_order(order(), ADDRESS).job_id, "FAILED", 1)
    first, second = (sent["recipe.yaml"] for sent in client.sent)
    assert first != second
    assert yaml.safe_load(first) == yaml.safe_load(second)


def test_own_modules_and_libraries_travel_when_asked(client: FakeClient, order: MakeOrder, tmp_path: Path) -> None:
    for name in ("mine/teacher.py", ".env", "weights.pt"):
        path = tmp_path / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    (tmp_path / "libraries.yaml").write_text("pip: [timm]\nenv_vars: {MODE: a}\n")
    along = Travels(code=tmp_path / "code", runtime_env=str(tmp_path / "libraries.yaml"))
    submit_order(order(travels=along), ADDRESS)
    assert list(client.sent[0]) == ["mine/teacher.py", "recipe.yaml"]
    assert client.handed_in[0]["runtime_env"]["pip"] == ["timm"]


def test_a_variable_of_the_file_goes_before_one_that_nobody_asked_for(
    order: MakeOrder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_REGION", "shell")
    path = tmp_path / "libraries.yaml"
    path.write_text("env_vars: {AWS_REGION: file}\n")

    def region(**travels: Any) -> object:
        environment: Any = order(travels=Travels(runtime_env=str(path), **travels)).job_runtime_env("/tmp")["env_vars"]
        return environment["AWS_REGION"]

    assert region() == "file"
    assert region(env_patterns=("AWS_REGION",)) == "shell"


def test_variables_that_name_files_of_this_machine_stay(order: MakeOrder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/etc/ssl/here.pem")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert {"AWS_CA_BUNDLE", "AWS_PROFILE"}.isdisjoint(order().variables)
    assert "AWS_ACCESS_KEY_ID" in order().variables
    assert "AWS_PROFILE" in order(travels=Travels(env_patterns=("AWS_PROFILE",))).variables


def test_the_recipe_may_name_its_libraries(order: MakeOrder, tmp_path: Path) -> None:
    assert "sam2==1.1.0" in str(order("cluster.runtime_env=sam2").runtime_env)
    path = tmp_path / "mine.yaml"
    path.write_text("pip: [timm]\n")
    chosen = order("cluster.runtime_env=sam2", travels=Travels(runtime_env=str(path)))
    assert chosen.runtime_env == {"pip": ["timm"]}


def test_the_same_submission_again_finds_the_job_at_work(client: FakeClient, order: MakeOrder) -> None:
    first = submit_order(order(), ADDRESS)
    shown: list[str] = []
    again = submit_order(order(), ADDRESS, write=shown.append)
    assert (again.job_id, again.is_new, len(client.handed_in)) == (first.job_id, False, 1)
    assert shown[0] == f"job {first.job_id} is at work already on {ADDRESS}\n"
    client.add(first.job_id, "FAILED", 4)
    third = submit_order(order(), ADDRESS)
    assert (third.job_id, third.is_new) == (f"{first.job_id[:-1]}2", True)


def test_other_settings_on_the_same_outputs_are_refused(client: FakeClient, order: MakeOrder) -> None:
    first = submit_order(order(), ADDRESS)
    with pytest.raises(UsageError, match=rf"job {first.job_id} is at work on the same outputs with other settings"):
        submit_order(order("features.num_actors=7"), ADDRESS)
    behind = submit_order(order("features.num_actors=7", after=[first.job_id]), ADDRESS)
    assert behind.is_new
    assert client.handed_in[1]["entrypoint"].startswith(f"python -m jobs jobs wait {first.job_id} && ")
    assert submit_order(order("training.num_steps=9"), ADDRESS).is_new


def test_of_two_clients_at_once_the_second_finds_the_first_ones_job(
    client: FakeClient, order: MakeOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = order()

    def probe(server: JobServer) -> ClusterVersions:
        client.add(f"{one.series}-1", metadata=one.metadata("0.1"))
        return HERE

    monkeypatch.setattr(submit, "probe_versions", probe)
    # The list of jobs is older than what the other client did.
    monkeypatch.setattr(JobServer, "jobs", lambda self: [])
    assert submit_order(one, ADDRESS) == submit.Submission(f"{one.series}-1", None, is_new=False)
    with pytest.raises(UsageError, match="with other settings"):
        submit_order(order("features.num_actors=7"), ADDRESS)
    assert client.handed_in == []


def test_a_job_to_wait_for_has_to_be_there(client: FakeClient, order: MakeOrder) -> None:
    with pytest.raises(UsageError, match=r"job 'absent-1': the job server .* knows none"):
        submit_order(order(after=["absent-1"]), ADDRESS)
    assert client.handed_in == []


def test_versions_are_compared_before_anything_is_sent(
    client: FakeClient, order: MakeOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "probe_versions", lambda server: ClusterVersions("3.8.1", None, None, None))
    with pytest.raises(InfrastructureError, match="the cluster's versions differ"):
        submit_order(order(), ADDRESS)
    assert client.handed_in == []


def test_following_and_attaching_end_as_the_job_does(client: FakeClient, order: MakeOrder) -> None:
    client.log = ["scenes done\n"]
    one = order()
    client.on_ask = lambda: client.add(f"{one.series}-1", "FAILED", 3)
    shown: list[str] = []
    assert submit_order(one, ADDRESS, follow=True, write=shown.append).exit_code == 3
    assert shown == [f"job {one.series}-1 handed in to {ADDRESS}\n", "scenes done\n"]
    assert attach(f"{one.series}-1", ADDRESS, shown.append).exit_code == 3
    assert shown[2:] == ["scenes done\n"]
    with pytest.raises(UsageError, match="expected an id such as"):
        attach("no id", ADDRESS, shown.append)


def test_a_dry_run_lists_what_travels_and_no_values(order: MakeOrder, tmp_path: Path) -> None:
    for name in ("mine.py", ".env", *(f"{number}.pt" for number in range(40))):
        (tmp_path / name).write_text("x = 1\n")
    told = describe_order(order(travels=Travels(code=tmp_path), stages=("train",)), ADDRESS)
    text = told.text
    assert "nothing was sent" in text
    assert "exec python -m jobs run recipe.yaml --stages train" in text
    assert "AWS_ACCESS_KEY_ID" in text
    assert "variables  AWS_ACCESS_KEY_ID" in text
    assert told.data["variables"] == ["AWS_ACCESS_KEY_ID"]
    assert {"recipe.yaml", "mine.py"} <= set(cast("list[str]", told.data["files"]))
    assert " key" not in text
    assert "KiB  recipe.yaml" in text
    assert "KiB  mine.py" in text
    assert "  .env  (a secret by its name)" in text
    assert "and 11 more" in text
    plain = describe_order(order("cluster.runtime_env=sam2"), ADDRESS).text
    assert "stays in" not in plain
    assert "sam2==1.1.0" in plain


@pytest.mark.parametrize("url", ["runs", "./runs", "file://runs", "memory://x", "~/runs"])
def test_a_workspace_of_this_machine_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="a cluster needs a URL that all its nodes reach"):
        check_workspace(url)


@pytest.mark.parametrize("url", ["/shared/runs", "file:///shared/runs", "s3://bucket/x", "gs://bucket", "az://a/c"])
def test_a_workspace_that_nodes_reach(url: str) -> None:
    check_workspace(url)


def test_a_variable_that_is_not_set() -> None:
    with pytest.raises(UsageError, match="--env TOKEN: expected a variable that is set"):
        passed_environment(["TOKEN"], {})
    assert passed_environment(["AWS_*", "TOK?N"], {"TOKEN": "1"}) == {"TOKEN": "1"}
