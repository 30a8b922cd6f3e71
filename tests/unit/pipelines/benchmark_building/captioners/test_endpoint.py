"""The endpoint captioner against a small server on loopback: what it sends, how it waits, what it says of trouble."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.benchmark_building.captioners.base import DraftError
from pipelines.benchmark_building.captioners.endpoint import EndpointCaptioner, EndpointCaptionerConfig
from pipelines.benchmark_building.records import BenchmarkTask, Texts
from storage.errors import InfrastructureError, UsageError

_KEY = "sk-very-secret-0123456789"
_CAPTION = json.dumps({"caption": "A red cup."})


def _reply(content: object) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


class FakeEndpoint:
    """Answers with what stands in `answers`, in order; the last one again and again.

    An answer is (status, body, headers).
    """

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes, dict[str, str]]] = [(200, _reply(_CAPTION), {})]
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.delay_s = 0.0
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.seen.append((self.path, dict(self.headers.items()), json.loads(body)))
                time.sleep(endpoint.delay_s)
                answers = endpoint.answers
                status, data, headers = answers.pop(0) if len(answers) > 1 else answers[0]
                try:
                    self.send_response(status)
                    for name, value in ({"Content-Length": str(len(data))} | headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # whoever asked has gone

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    server = FakeEndpoint()
    yield server
    server.stop()


def captioner(url: str, pauses: list[float] | None = None, **settings: object) -> EndpointCaptioner:
    config = EndpointCaptionerConfig.model_validate(
        {"url": url, "model": "some-vlm", "key_variable": "SOME_KEY", "max_retries": 2, **settings}
    )
    return EndpointCaptioner(config, {"SOME_KEY": _KEY}, (pauses if pauses is not None else []).append)


def test_sends_the_picture_with_its_region_and_reads_the_reply(endpoint: FakeEndpoint, ask_for) -> None:
    request = ask_for(BenchmarkTask.DETAILED_CAPTION, "dog")
    texts = captioner(f"{endpoint.url}/", side_px=128).draft(request)
    assert texts == Texts(caption="A red cup.")
    ((path, headers, body),) = endpoint.seen
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {_KEY}"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("some-vlm", 0, 400)
    picture, words = body["messages"][1]["content"]
    assert "annotated as: dog" in words["text"]
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert sent.size == (128, 96)
    pixels = np.asarray(sent.convert("RGB"), np.int64)
    assert ((pixels[..., 0] > 150) & (pixels[..., 2] < 100)).sum() > 100  # the outline, which JPEG has smeared


def test_every_task_has_its_question_and_reply(endpoint: FakeEndpoint, ask_for) -> None:
    choice = {"question": "What is <region1>?", "options": ["a cup", "a mug"], "right": 1}
    endpoint.answers = [
        (200, _reply(f"Sure! ```json\n{json.dumps(choice)}\n``` {{done}}"), {}),
        (200, _reply(json.dumps({"expression": "the cup left of <region1>"})), {}),
    ]
    asked = captioner(endpoint.url)
    texts = asked.draft(ask_for(BenchmarkTask.MULTIPLE_CHOICE, "dog"))
    assert texts == Texts(question="What is <region1>?", options=("a cup", "a mug"), right=1)
    texts = asked.draft(ask_for(BenchmarkTask.VISUAL_TEXT_REFERRING, "cup"))
    assert texts == Texts(question="the cup left of <region1>", answer="It is [SEG].")
    first, second = (body["messages"][1]["content"][1]["text"] for _, _, body in endpoint.seen)
    assert "Give 3 short options" in first
    assert "Region 2 is annotated as: cup" in second


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (_reply("I can't see it."), 'expected one JSON object with caption, got "I can\'t see it."'),
        (_reply('{"text": "a cup"}'), "caption: Field required; expected caption"),
        (_reply('{"caption": 3}'), "caption: Input should be a valid string"),
        (_reply(None), "expected text in choices"),
        (b'{"choices": []}', r"expected choices\[0\].message.content"),
        (b"<html>", r"expected choices\[0\].message.content, got '<html>'"),
    ],
)
def test_a_reply_that_is_no_draft_is_no_end(endpoint: FakeEndpoint, ask_for, body: bytes, message: str) -> None:
    endpoint.answers = [(200, body, {})]
    with pytest.raises(DraftError, match=message):
        captioner(endpoint.url).draft(ask_for(BenchmarkTask.DETAILED_CAPTION, "dog"))
    assert len(endpoint.seen) == 1


def test_transient_trouble_is_tried_again_after_pauses(endpoint: FakeEndpoint, ask_for) -> None:
    endpoint.answers = [(503, b"busy", {}), (429, b"slow down", {"Retry-After": "7"}), (200, _reply(_CAPTION), {})]
    pauses: list[float] = []
    assert captioner(endpoint.url, pauses).draft(ask_for(BenchmarkTask.DETAILED_CAPTION, "dog")).caption
    assert len(pauses) == 2
    assert 0.5 <= pauses[0] <= 1.0
    assert pauses[1] == 7.0


def test_a_reply_that_is_cut_off_is_asked_for_again(endpoint: FakeEndpoint, ask_for) -> None:
    endpoint.answers = [(200, b'{"choices"', {"Content-Length": "5000"}), (200, _reply(_CAPTION), {})]
    pauses: list[float] = []
    assert captioner(endpoint.url, pauses).draft(ask_for(BenchmarkTask.DETAILED_CAPTION, "dog")).caption
    assert len(pauses) == 1


def test_trouble_that_stays_ends_with_what_was_said(endpoint: FakeEndpoint, ask_for) -> None:
    endpoint.answers = [(500, f"broken {_KEY}".encode(), {})]
    with pytest.raises(InfrastructureError, match=r"no reply in 3 tries, last HTTP 500.*broken \[key\]") as caught:
        captioner(endpoint.url).draft(ask_for(BenchmarkTask.DETAILED_CAPTION, "dog"))
    assert _KEY not in str(caught.value)
    assert len(endpoint.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_told_at_once(endpoint: FakeEndpoint, ask_for, status: int) -> None:
    endpoint.answers = [(status, b"no such model", {})]
    with pytest.raises(UsageError, match=f"refused with HTTP {status}.*no such model.*check url, model and key"):
        captioner(endpoint.url).draft(ask_for(BenchmarkTask.DETAILED_CAPTION, "dog"))
    assert len(endpoint.seen) == 1


def test_the_key_follows_no_redirect(endpoint: FakeEndpoint, ask_for) -> None:
    endpoint.answers = [(307, b"", {"Location": f"{endpoint.url}/elsewhere"})]
    with pytest.raises(UsageError, match="refused with HTTP 307"):
        captioner(endpoint.url).draft(ask_for(BenchmarkTask.DETAILED_CAPTION, "dog"))
    assert [path for path, _, _ in endpoint.seen] == ["/v1/chat/completions"]


def test_a_slow_endpoint_times_out(endpoint: FakeEndpoint, ask_for) -> None:
    endpoint.delay_s = 0.5
    with pytest.raises(InfrastructureError, match="no reply in 1 tries, last TimeoutError"):
        captioner(endpoint.url, timeout_s=0.1, max_retries=0).draft(ask_for(BenchmarkTask.DETAILED_CAPTION, "dog"))


def test_nobody_there(ask_for, closed_port: int) -> None:
    pauses: list[float] = []
    asked = captioner(f"http://127.0.0.1:{closed_port}/v1", pauses)
    with pytest.raises(InfrastructureError, match=r"no reply in 3 tries, last URLError.*what is drafted stays"):
        asked.draft(ask_for(BenchmarkTask.DETAILED_CAPTION, "dog"))
    assert len(pauses) == 2


def test_without_a_key(endpoint: FakeEndpoint, ask_for) -> None:
    config = EndpointCaptionerConfig(url=endpoint.url, model="m", key_variable=None)
    EndpointCaptioner(config, {}).draft(ask_for(BenchmarkTask.DETAILED_CAPTION, "dog"))
    assert "Authorization" not in endpoint.seen[0][1]


@pytest.mark.parametrize(
    ("environment", "message"),
    [({}, "expected the environment to hold SOME_KEY, found none"), ({"SOME_KEY": "a\nb"}, "found other characters")],
)
def test_a_key_that_is_not_there_or_broken(environment: dict[str, str], message: str) -> None:
    config = EndpointCaptionerConfig(url="https://host/v1", model="m", key_variable="SOME_KEY")
    with pytest.raises(UsageError, match=message):
        EndpointCaptioner(config, environment)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "host/v1"}, "expected an address such as https://host/v1"),
        ({"url": "file:///etc/passwd"}, "expected an address such as https://host/v1"),
        ({"url": "https://me:secret@host/v1"}, "expected an address without name, password"),
        ({"url": "https://host/v1?key=secret"}, "expected an address without name, password"),
        ({"key_variable": "sk-123"}, "expected the name of an environment variable, not the key itself"),
    ],
)
def test_settings_that_can_not_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointCaptionerConfig.model_validate({"url": "https://host/v1", "model": "m", **settings})


def test_the_key_is_in_no_description() -> None:
    config = EndpointCaptionerConfig(url="https://host/v1", model="m")
    assert config.description() == "m at host, instructions version 1"
    assert "key" not in str(config.hashed_fields())
