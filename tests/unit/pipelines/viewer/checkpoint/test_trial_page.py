"""A checkpoint that is tried: pictures that are sent, questions, regions, samples of a corpus, one at a time."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from model.drawing import MASK_COLOURS
from model.predictor import Answer
from pipelines.viewer.application import create_application
from pipelines.viewer.checkpoint.page import TrialPage
from pipelines.viewer.checkpoint.pictures import MAX_UPLOAD_BYTES
from pipelines.viewer.checkpoint.trial import Ask, Asking, Busy, TriedStudent, question
from pipelines.viewer.pages import PageOptions, open_page
from storage.corpus import Corpus
from storage.errors import UsageError
from storage.objects import Objects
from storage.schema import Task
from tests.masking_student import write_masking_student
from tests.small_corpora import write_labelled_corpus

_PORT = 8400
_WIDTH, _HEIGHT = 80, 48


class Scripted:
    """A student that marks the left half, and notes what it is asked."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.asked: list[tuple[tuple[int, ...], str, list[Any], int]] = []
        self.takes_s, self.present, self.most = takes_s, 0, 0

    def predict(self, image: object, text: str, prompts: Sequence[object] = (), max_new_tokens: int = 64) -> Answer:
        self.present += 1
        self.most = max(self.most, self.present)
        time.sleep(self.takes_s)
        pixels = np.asarray(image)
        self.asked.append((pixels.shape, text, list(prompts), max_new_tokens))
        mask = np.zeros(pixels.shape[:2], bool)
        mask[:, : pixels.shape[1] // 2] = True
        self.present -= 1
        return Answer(f"It is [SEG] <b>{text}</b>", (mask,), (0.875,))


def _png(width: int = _WIDTH, height: int = _HEIGHT, **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (width, height), (120, 130, 140)).save(sink, options.pop("form", "PNG"), **options)
    return sink.getvalue()


def _client(page: TrialPage) -> TestClient:
    client = TestClient(create_application(page, "token", _PORT), base_url=f"http://127.0.0.1:{_PORT}")
    client.get("/?token=token")
    return client


@pytest.fixture
def student() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_labelled_corpus(Objects.open(tmp_path_factory.mktemp("corpus")))


@pytest.fixture
def client(student: Scripted, corpus: Corpus) -> TestClient:
    return _client(TrialPage([TriedStudent("a <i>name</i>", student, "varied")], corpus))


def _sent(client: TestClient, data: bytes | None = None) -> str:
    answer = client.post("/checkpoint/pictures", content=_png() if data is None else data)
    assert answer.status_code == 200, answer.text
    return answer.json()["picture"]


def _ask(client: TestClient, picture: str, student: int = 0, **fields: object) -> Any:
    body = {"picture": picture, "ask": "find", "words": "the red cup", **fields}
    return client.post(f"/checkpoint/students/{student}", json=body)


def test_a_sentence_gets_a_mask(client: TestClient, student: Scripted) -> None:
    answer = _ask(client, _sent(client), max_new_tokens=7).json()
    assert student.asked == [((_HEIGHT, _WIDTH, 3), "Please segment the red cup in this image.", [], 7)]
    assert answer["text"] == "It is [SEG] <b>Please segment the red cup in this image.</b>"
    assert answer["question"] == "Please segment the red cup in this image."
    assert answer["iou"] is None
    assert answer["took_s"] >= 0
    colour = "#{:02x}{:02x}{:02x}".format(*MASK_COLOURS[0])
    assert answer["masks"] == [{"score": 0.875, "num_px": _WIDTH * _HEIGHT // 2, "share": 0.5, "colour": colour}]
    drawn = client.get(answer["picture"])
    assert drawn.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(drawn.content)) as image:
        left, right = (np.asarray(image)[:, part].mean() for part in (slice(40, 300), slice(560, None)))
    assert left > right + 50  # what isn't meant is darkened


@pytest.mark.parametrize(
    ("ask", "words", "style", "expected"),
    [
        (Ask.FIND, " the  red\ncup ", "short", "the red cup"),
        (Ask.NAME, "", "short", "name <region1>"),
        (Ask.DESCRIBE, "", "varied", "Please describe <region1> in detail."),
        (Ask.FREE, "Where is <region1>?", "varied", "Where is <region1>?"),
    ],
)
def test_questions_are_put_as_the_student_learnt_them(ask: Ask, words: str, style: Any, expected: str) -> None:
    assert question(ask, words, style) == expected


@pytest.mark.parametrize("ask", [Ask.FIND, Ask.FREE])
def test_words_are_needed(ask: Ask) -> None:
    with pytest.raises(UsageError, match="words: expected some, got none"):
        question(ask, "  \n", "varied")


def test_a_box_and_a_point_are_regions_of_the_picture(client: TestClient, student: Scripted) -> None:
    picture = _sent(client)
    for region in ({"kind": "box", "numbers": [4, 5, 20, 15]}, {"kind": "point", "numbers": [30.5, 20]}):
        assert _ask(client, picture, ask="describe", words="", region=region).status_code == 200
    box, point = (prompts[0] for _, _, prompts, _ in student.asked)
    assert (box.shape, box.sum(), box[5:15, 4:20].all()) == ((_HEIGHT, _WIDTH), 160, True)
    assert point[20, 30]
    assert 0 < point.sum() < 20


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"words": " "}, 422, "words: expected some"),
        ({"ask": "describe"}, 422, "region: expected a point or a box for <region1>, got none"),
        ({"ask": "describe", "region": {"kind": "point", "numbers": [500, 1]}}, 422, "expected points inside"),
        ({"ask": "describe", "region": {"kind": "box", "numbers": [9, 9, 2, 2]}}, 422, "with x0 < x1"),
        ({"ask": "describe", "region": {"kind": "box", "numbers": [1, 2]}}, 422, "got 2 values"),
        (
            {"ask": "describe", "region": {"kind": "box", "numbers": [1e9, 0, 2e9, 1]}},
            422,
            "coordinates in the picture",
        ),
        ({"ask": "describe", "region": {"kind": "scribble", "numbers": [1, 2]}}, 400, "region.kind"),
        ({"ask": "sample"}, 422, "sample: expected one of the corpus"),
        ({"ask": "sing"}, 400, "ask"),
        ({"words": "x" * 2001}, 400, "words"),
        ({"max_new_tokens": 100_000}, 400, "max_new_tokens"),
        ({"picture": "../../etc/passwd"}, 400, "picture"),
        ({"picture": "f" * 64}, 422, "is not in this corpus"),
        ({"sample": "f" * 64}, 404, "no such sample"),
        ({"more": 1}, 400, "more"),
    ],
)
def test_questions_that_are_none(
    client: TestClient, student: Scripted, fields: dict[str, object], status: int, message: str
) -> None:
    answer = _ask(client, **{"picture": _sent(client), **fields})
    assert answer.status_code == status
    assert message in answer.json()["message"]
    assert student.asked == []


def test_json_alone_and_a_student_that_is_there(client: TestClient) -> None:
    body = json.dumps({"picture": "f" * 64, "ask": "find"}).encode()
    assert client.post("/checkpoint/students/0", content=body).status_code == 415
    assert client.post("/checkpoint/students/3", json={}).status_code == 404
    assert client.post("/checkpoint/students/0", json=[]).status_code == 400


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n", _png()[:60], b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
)
def test_files_that_are_no_pictures(client: TestClient, data: bytes) -> None:
    answer = client.post("/checkpoint/pictures", content=data, headers={"content-type": "image/png"})
    assert answer.status_code == 422
    assert "expected an image that PIL can read" in answer.json()["message"]
    assert "0x" not in answer.json()["message"]


def test_pictures_with_too_many_pixels(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", _WIDTH * _HEIGHT - 1)
    answer = client.post("/checkpoint/pictures", content=_png())
    assert answer.status_code == 422
    assert "px in all" in answer.json()["message"] or "decompression bomb" in answer.json()["message"]


def test_bodies_are_bounded_and_need_the_token(client: TestClient, student: Scripted) -> None:
    large = b"\0" * (MAX_UPLOAD_BYTES + 1)
    answer = client.post("/checkpoint/pictures", content=large)
    assert (answer.status_code, answer.text) == (413, f"413: expected a body of at most {MAX_UPLOAD_BYTES} bytes\n")
    assert client.post("/checkpoint/students/0", content=large[: 300 * 1024]).status_code == 413
    assert client.post("/checkpoint/pictures", content=large[: 300 * 1024]).status_code == 422
    evil = {"origin": "http://evil.example"}
    assert client.post("/checkpoint/pictures", content=_png(), headers=evil).status_code == 403
    client.cookies.clear()
    assert client.post("/checkpoint/pictures", content=_png()).status_code == 403
    assert student.asked == []


def test_a_photograph_is_turned_upright(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    answer = client.post("/checkpoint/pictures", content=_png(form="JPEG", exif=exif)).json()
    assert (answer["width_px"], answer["height_px"]) == (_HEIGHT, _WIDTH)
    shown = client.get(f"/checkpoint/pictures/{answer['picture']}.jpg")
    with Image.open(io.BytesIO(shown.content)) as image:
        assert image.width < image.height
    assert client.get(f"/checkpoint/pictures/{'f' * 64}.jpg").status_code == 404


def test_nothing_is_written(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    _ask(client, _sent(client, _png(900, 900)))
    assert list(tmp_path.iterdir()) == []


def _sample(corpus: Corpus, task: Task, number: int = 0) -> Any:
    return [sample for sample in corpus.samples() if sample.task is task][number]


def test_a_sample_is_asked_as_it_stands(client: TestClient, student: Scripted, corpus: Corpus) -> None:
    sample = _sample(corpus, Task.REFERRING)
    html = client.get(f"/checkpoint/?sample={sample.sample_id}").text
    assert ">the small cup</textarea>" in html
    assert f'data-picture="{sample.image_id}"' in html
    fields = {"ask": "sample", "sample": sample.sample_id, "turn": 0}
    answer = _ask(client, sample.image_id, words="the small cup", **fields).json()
    # 16 x 24 px are meant, all of them in the left half of 64 x 48.
    assert answer["iou"] == pytest.approx(16 * 24 / (32 * 48))
    other = _ask(client, sample.image_id, words="the large cup", **fields).json()
    assert other["iou"] is None
    assert [text for _, text, _, _ in student.asked] == [
        "Please segment the small cup in this image.",
        "Please segment the large cup in this image.",
    ]


def test_a_sample_has_its_own_prompts(client: TestClient, student: Scripted, corpus: Corpus) -> None:
    sample = _sample(corpus, Task.VISUAL_TEXT_REFERRING)
    fields = {"ask": "sample", "sample": sample.sample_id, "words": sample.turns[0].text}
    assert _ask(client, sample.image_id, **fields).status_code == 200
    assert student.asked[0][2][0].sum() == 16 * 24
    refused = _ask(client, sample.image_id, region={"kind": "point", "numbers": [1, 1]}, **fields)
    assert (refused.status_code, "region: expected none" in refused.json()["message"]) == (422, True)
    for what in ("asked", "truth"):
        shown = client.get(f"/checkpoint/samples/{sample.sample_id}/0/{what}.jpg")
        assert shown.headers["content-type"] == "image/jpeg"


def test_samples_to_choose_from(client: TestClient) -> None:
    html = client.get("/checkpoint/samples?words=cup").text
    assert 'href="/checkpoint/?sample=' in html
    assert "4 samples</h1>" in html
    address = html.split('src="/checkpoint/samples/')[1].split('"')[0]
    assert client.get(f"/checkpoint/samples/{address}").headers["content-type"] == "image/jpeg"


def test_samples_without_a_picture_are_not_among_them(client: TestClient, corpus: Corpus) -> None:
    with_picture = [sample for sample in corpus.samples() if sample.image_id is not None]
    html = client.get("/checkpoint/samples").text
    assert len(with_picture) < sum(1 for _ in corpus.samples())
    assert f"{len(with_picture)} samples</h1>" in html
    assert html.count('href="/checkpoint/?sample=') == len(with_picture)


@pytest.mark.parametrize("query", [f"sample={'f' * 64}", "sample=x", "turn=9", "turn=x"])
def test_samples_that_are_not_there(client: TestClient, corpus: Corpus, query: str) -> None:
    sample = _sample(corpus, Task.REFERRING).sample_id
    address = f"/checkpoint/?{query}" if "sample" in query else f"/checkpoint/?sample={sample}&{query}"
    assert client.get(address).status_code == 404


def test_without_a_corpus(student: Scripted) -> None:
    client = _client(TrialPage([TriedStudent("a", student, "short")]))
    assert "Samples of the corpus" not in client.get("/checkpoint/").text
    assert client.get("/checkpoint/samples").status_code == 404
    unknown = _ask(client, "f" * 64)
    assert (unknown.status_code, "choose the file again" in unknown.json()["message"]) == (422, True)


def test_the_page_holds_no_inline_code_and_escapes(client: TestClient) -> None:
    html = client.get("/checkpoint/").text
    assert "a &lt;i&gt;name&lt;/i&gt;" in html
    assert "style=" not in html
    assert "onclick" not in html
    assert "http://" not in html


def test_one_question_at_a_time_and_few_wait() -> None:
    students = [Scripted(0.15), Scripted(0.15)]
    asking = Asking([TriedStudent(str(number), student, "short") for number, student in enumerate(students)])
    pixels = np.zeros((8, 8, 3), np.uint8)
    gate = threading.Barrier(12)

    def ask(number: int) -> float | None:
        gate.wait()
        try:
            return asking.ask(number % 2, pixels, "x", [], 1).waited_s
        except Busy:
            return None

    with ThreadPoolExecutor(12) as threads:
        waited = list(threads.map(ask, range(12)))
    answered = sorted(time_s for time_s in waited if time_s is not None)
    assert len(answered) == 7  # one is answered and six wait
    assert answered[0] < 0.1
    assert answered[-1] > 6 * 0.14
    assert max(student.most for student in students) == 1
    assert asking.ask(0, pixels, "x", [], 1).answer.masks  # and on it goes


def test_the_page_answers_while_a_student_thinks() -> None:
    slow = Scripted(1.5)
    client = _client(TrialPage([TriedStudent("slow", slow, "short")]))
    picture = _sent(client)
    with ThreadPoolExecutor(1) as threads:
        pending = threads.submit(_ask, client, picture)
        while not slow.present:
            time.sleep(0.01)
        assert client.get("/checkpoint/").status_code == 200
        assert not pending.done()
        assert pending.result().json()["took_s"] >= 1.5


def test_two_real_students_are_opened_and_answer(tmp_path: Path, corpus: Corpus) -> None:
    first, second = write_masking_student(tmp_path / "a"), write_masking_student(tmp_path / "b", "red")
    page = open_page(str(first), PageOptions(against=str(second), corpus=corpus.objects.url))
    assert isinstance(page, TrialPage)
    client = _client(page)
    html = client.get("/checkpoint/").text
    assert html.count('class="panel student"') == 2
    picture = _sent(client)
    answers = [_ask(client, picture, student, max_new_tokens=2).json() for student in (0, 1)]
    assert [len(answer["masks"]) for answer in answers] == [2, 0]
    assert answers[1]["text"]


def test_no_such_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--device nowhere: expected a device of this machine"):
        open_page(str(write_masking_student(tmp_path / "a")), PageOptions(device="nowhere"))
