"""The pages of a corpus: search, pages, one sample, rejects, pictures; and how they stand up to odd addresses."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pipelines.viewer.application import create_application
from pipelines.viewer.corpus.page import CorpusPage
from pipelines.viewer.corpus.tables import SampleIndex
from pipelines.viewer.pages import PageOptions, open_page
from storage.corpus import Corpus, write_images, write_rejects, write_samples
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, PromptKind, Reject, RejectReason, Sample, Task, Turn, VisualPrompt
from tests.object_corpora import HEIGHT_PX, OBJECTS, WIDTH_PX, drawn_picture
from tests.small_corpora import box_region

_PORT = 8400
_EVIL = "<script>document.title='evil'</script>"
_DOG = 2


def _samples(num_pictures: int) -> list[Sample]:
    """Of each picture: a cup by a referring expression, a dog by a question on a box, a table that isn't there."""
    found: list[Sample] = []
    for number in range(num_pictures):
        image_id = drawn_picture(number).image_id
        name, box, _ = OBJECTS[_DOG]
        x0, y0, x1, y1 = map(float, box)
        region = box_region(box, HEIGHT_PX, WIDTH_PX, name)
        common = Sample(
            sample_id="",
            image_id=image_id,
            family="refcoco",
            task=Task.REFERRING,
            split="train" if number % 2 else "val",
            source_file="refs.json",
            locator=f"ref_id={number}",
        )
        cup = box_region(OBJECTS[0][1], HEIGHT_PX, WIDTH_PX, "cup")
        found += [
            replace(common, regions=(cup,), turns=(Turn(text=f"the Red cup {number}", targets=((0,),)),)),
            replace(
                common,
                family="osprey",
                task=Task.DESCRIPTION,
                regions=(region,),
                prompts=(VisualPrompt(kind=PromptKind.BOX, region=0, box_xyxy_px=(x0, y0, x1, y1)),),
                turns=(
                    Turn(text="What is <region1>?", answer=f"A brown dog. {_EVIL}"),
                    Turn(text="Sure?", answer="Yes."),
                ),
            ),
            replace(common, turns=(Turn(text='a table "on the left"', targets=((),)),)),
        ]
    return [replace(sample, sample_id=f"{place:064x}") for place, sample in enumerate(found)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    objects = Objects.open(tmp_path_factory.mktemp("corpus"))
    samples = _samples(40)
    rejects = [
        Reject(
            family="refcoco",
            source_file="refs.json",
            locator=f"ref_id={900 + number}",
            reason=RejectReason.MASK_EMPTY if number % 3 else RejectReason.TEXT_EMPTY,
            detail=f"detail {number} {_EVIL}",
        )
        for number in range(130)
    ]
    files = (
        write_images(objects, "00000", [drawn_picture(number) for number in range(40)]),
        # Two files, so that a sample's place isn't its place in its file.
        write_samples(objects, "00000", samples[:60]),
        write_samples(objects, "00001", samples[60:]),
        write_rejects(objects, "00000", rejects),
    )
    facts = {"num_samples": 120, "num_images": 40, "num_rejects": 130, "leakage_gate": "remove"}
    publish(objects, Manifest("corpus", "ab" * 32, SCHEMA_VERSION, {}, {}, files, facts))
    return Corpus.open(objects)


@pytest.fixture(scope="module")
def client(corpus: Corpus) -> TestClient:
    page = open_page(corpus.objects.url, PageOptions())
    assert isinstance(page, CorpusPage)
    client = TestClient(create_application(page, "token", _PORT), base_url=f"http://127.0.0.1:{_PORT}")
    client.get("/?token=token")
    return client


def _num(html: str) -> int:
    found = re.search(r'id="num">([\d,]+)', html)
    assert found is not None
    return int(found[1].replace(",", ""))


def _texts(html: str) -> list[str]:
    return [text.strip() for text in re.findall(r'<span class="words">([^<]*)', html)]


def test_rows_lead_to_their_samples(corpus: Corpus) -> None:
    index = SampleIndex(corpus)
    ids = [sample.sample_id for sample in corpus.samples()]
    rows = [index.row_of(sample_id) for sample_id in reversed(ids)]
    assert rows == list(reversed(range(120)))
    assert [sample.sample_id for sample in corpus.read_samples([119, 0, 60, 59])] == [ids[n] for n in (119, 0, 60, 59)]
    assert index.row_of("nobody") is None
    for row in (-1, 120):
        with pytest.raises(IndexError, match=f"expected a row from 0 to 119, got {row}"):
            corpus.read_samples([row])


@pytest.mark.parametrize(
    ("query", "num"),
    [
        ("", 120),
        ("family=osprey", 40),
        ("split=train", 60),
        ("family=refcoco&task=referring&split=val", 40),
        ("words=red", 40),  # whatever its case
        ("words=7+CUP", 4),  # both, in any order: 7, 17, 27, 37
        ("words=%22the+red+cup+1%22", 11),
        ("words=brown", 40),  # in an answer
        ("words=brown&family=refcoco", 0),
        ("words=%25", 0),  # no wildcard
        ("words=%5B", 0),  # no pattern
        ("family=nobody", 0),
    ],
)
def test_search(client: TestClient, query: str, num: int) -> None:
    answer = client.get(f"/corpus/?{query}")
    assert answer.status_code == 200
    assert _num(answer.text) == num


def test_pages_show_every_match_once(client: TestClient) -> None:
    found: list[str] = []
    address: str | None = "/corpus/?split=train"
    while address is not None:
        html = client.get(address).text
        found += re.findall(r'href="/corpus/samples/([0-9a-f]{64})', html)
        following = re.search(r'rel="next" href="([^"]+)"', html)
        address = following[1].replace("&amp;", "&") if following else None
    assert len(found) == len(set(found)) == 60
    assert "There are no more pages" in client.get("/corpus/?page=9999").text
    for odd in ("0", "-1", "x", "9" * 40, "²"):
        assert client.get("/corpus/", params={"page": odd}).status_code == 200


def test_a_sample_whole(client: TestClient, corpus: Corpus) -> None:
    sample = next(sample for sample in corpus.samples() if sample.task is Task.DESCRIPTION)
    html = client.get(f"/corpus/samples/{sample.sample_id}?words=dog&page=2").text
    assert "What is &lt;region1&gt;?" in html
    assert _EVIL not in html
    assert "&lt;script&gt;" in html
    assert "box 44, 20, 78, 60" in html
    assert 'href="/corpus/?words=dog&amp;page=2" id="back"' in html
    assert len(re.findall('class="card"', html)) == 2  # the others on the same picture
    without = next(sample for sample in corpus.samples() if sample.turns[0].targets == ((),))
    assert "marks no target" in client.get(f"/corpus/samples/{without.sample_id}").text


def _pixels(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def test_pictures_are_drawn_with_and_without_masks(client: TestClient, corpus: Corpus) -> None:
    sample = next(sample for sample in corpus.samples() if sample.turns[0].text.startswith("the Red"))
    address = f"/corpus/samples/{sample.sample_id}"
    card, whole, plain = (client.get(f"{address}/{name}") for name in ("card.jpg", "picture/0.jpg", "plain.jpg"))
    assert {answer.headers["content-type"] for answer in (card, whole, plain)} == {"image/jpeg"}
    drawn, bare = _pixels(whole.content), _pixels(plain.content)
    scale = bare.shape[1] / WIDTH_PX
    x0, y0, x1, y1 = (round(side * scale) for side in OBJECTS[0][1])
    margin = round(3 * scale)
    changed = np.abs(drawn - bare).max(axis=-1) > 24
    assert changed[y0 + margin : y1 - margin, x0 + margin : x1 - margin].mean() > 0.95
    elsewhere = changed.copy()
    elsewhere[: y1 + margin, : x1 + margin] = False
    assert elsewhere.mean() < 0.001
    assert np.array_equal(_pixels(client.get(f"{address}/picture/77.jpg").content), bare)  # no such turn, no masks


def test_rejects(client: TestClient) -> None:
    html = client.get("/corpus/rejects").text
    assert (_num(html), html.count("<tr>")) == (130, 101)
    assert _EVIL not in html
    assert _num(client.get("/corpus/rejects?reason=text_empty").text) == 44
    assert _num(client.get("/corpus/rejects?words=ref_id%3D907").text) == 1
    assert "Nothing matches" in client.get("/corpus/rejects?words=nowhere").text


@pytest.mark.parametrize("rest", ["", "/card.jpg", "/picture/0.jpg", "/plain.jpg"])
def test_what_is_not_there(client: TestClient, rest: str) -> None:
    answer = client.get(f"/corpus/samples/{'f' * 64}{rest}")
    assert answer.status_code == 404
    assert "There is no such sample" in answer.text


def test_text_alone(tmp_path: Path) -> None:
    objects = Objects.open(tmp_path)
    sample = replace(_samples(1)[0], image_id=None, regions=(), turns=(Turn(text="2 + 2?", answer="4"),))
    files = (write_images(objects, "00000", []), write_samples(objects, "00000", [sample]))
    publish(objects, Manifest("corpus", "0" * 64, SCHEMA_VERSION, {}, {}, files))
    client = TestClient(
        create_application(CorpusPage.open(objects), "token", _PORT), base_url=f"http://127.0.0.1:{_PORT}"
    )
    client.get("/?token=token")
    assert _texts(client.get("/corpus/").text) == ["2 + 2?"]
    assert "This sample is text alone" in client.get(f"/corpus/samples/{sample.sample_id}").text
    assert client.get(f"/corpus/samples/{sample.sample_id}/card.jpg").status_code == 404
    assert "Every record became a sample" in client.get("/corpus/rejects").text
