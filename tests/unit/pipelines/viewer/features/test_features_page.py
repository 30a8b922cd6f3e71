"""The pages of a feature store: lists, one image in three colourings, pictures from corpora, odd addresses."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from pipelines.viewer.application import create_application
from pipelines.viewer.features.originals import Originals, coverage_statements
from pipelines.viewer.features.page import FeaturesPage
from pipelines.viewer.features.pictures import Colours, FeaturePictures
from pipelines.viewer.features.shown import facts_of, parts_of, statements_of
from pipelines.viewer.features.tables import ImageTable
from pipelines.viewer.pages import PageOptions, open_page
from storage.errors import ObjectNotFound
from storage.features import FeatureStore
from storage.objects import Objects
from tests.many_features import image_name, write_many_features
from tests.object_corpora import HEIGHT_PX, OBJECTS, WIDTH_PX
from tests.viewed_workspaces import NUM_IMAGES, ViewedWorkspace, write_viewed_workspace

_PORT = 8400


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def written(root: Path) -> ViewedWorkspace:
    return write_viewed_workspace(Objects.open(root))


@pytest.fixture(scope="module")
def store(root: Path, written: ViewedWorkspace) -> FeatureStore:
    return FeatureStore.open(root / "features" / written.store)


def _client(url: str, **options: str) -> TestClient:
    page = open_page(url, PageOptions(**options))
    assert isinstance(page, FeaturesPage)
    client = TestClient(create_application(page, "token", _PORT), base_url=f"http://127.0.0.1:{_PORT}")
    client.get("/?token=token")
    return client


@pytest.fixture(scope="module")
def client(store: FeatureStore) -> TestClient:
    return _client(store.objects.url)


def _pixels(data: bytes) -> NDArray[np.int16]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def _num(html: str) -> int:
    found = re.search(r'id="num">([\d,]+)', html)
    assert found is not None
    return int(found[1].replace(",", ""))


def test_facts_of_a_store(store: FeatureStore, written: ViewedWorkspace) -> None:
    statements = coverage_statements(store.objects)
    facts = facts_of(store, statements)
    lines = dict(facts.lines)
    assert (facts.num_images, facts.num_rejected, facts.num_parts) == (NUM_IMAGES - 1, 1, 2)
    assert lines["teacher"] == "sam2, checkpoint sam2-hiera-tiny, dtype float32"
    assert (lines["grid"], lines["grids"]) == ("policy native, stride 8", "12 x 16 cells")
    assert (lines["channels"], lines["encoding"]) == ("8", "int8")
    assert 8 <= float(lines["bits per value"]) < 16
    assert facts_of(store, []).teacher == "unknown teacher"
    parts = parts_of(store)
    assert [(part.num_images, part.num_rejected) for part in parts] == [(20, 0), (9, 1)]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", part.written) for part in parts)
    (statement,) = statements_of(statements)
    assert (statement.corpus, statement.splits, statement.num_rejected) == (written.corpus, "train, val", 1)


@pytest.mark.parametrize("place", ["", "corpora/{coverage}", "parts/{part}"])
def test_a_store_is_shown_by_each_of_its_addresses(store: FeatureStore, written: ViewedWorkspace, place: str) -> None:
    path = place.format(coverage=written.coverage, part=store.parts[0].key)
    html = _client(f"{store.objects.url}/{path}").get("/features/").text
    assert _num(html) == NUM_IMAGES - 1
    assert "sam2 · 2 parts" in html


def test_images_are_found_by_id_and_part(client: TestClient, store: FeatureStore, written: ViewedWorkspace) -> None:
    wanted = written.image_ids[4]
    assert _num(client.get("/features/", params={"words": wanted[5:20].upper()}).text) == 1
    assert "Nothing matches" in client.get("/features/?words=nobody").text
    assert _num(client.get("/features/", params={"part": store.parts[1].key[:12]}).text) == 9
    html = client.get(f"/features/images/{wanted}?words=ab&page=2").text
    assert 'href="/features/?words=ab&amp;page=2" id="back"' in html
    assert "12 x 16 cells" in html
    assert f"{WIDTH_PX} x {HEIGHT_PX} px" in html
    assert "4.png" in html


def test_rejects_say_why(client: TestClient, written: ViewedWorkspace) -> None:
    html = client.get("/features/rejects").text
    assert _num(html) == 1
    assert written.rejected in html
    assert "the teacher gave NaN" in html
    assert _num(client.get("/features/rejects?words=nan").text) == 1
    assert "Nothing matches" in client.get("/features/rejects?words=memory").text


def test_the_store_itself(client: TestClient, store: FeatureStore, written: ViewedWorkspace) -> None:
    html = client.get("/features/store").text
    for said in (*(part.key[:12] for part in store.parts), written.corpus[:12], written.coverage[:12], "int8"):
        assert said in html


def test_features_lie_where_the_picture_has_its_objects(client: TestClient, written: ViewedWorkspace) -> None:
    address = f"/features/images/{written.image_ids[7]}"
    original = _pixels(client.get(f"{address}/original.jpg").content)
    shown = {name: _pixels(client.get(f"{address}/{name}.png").content) for name in Colours}
    assert {picture.shape for picture in shown.values()} == {original.shape}
    scale = original.shape[1] / WIDTH_PX
    colours = []
    for _, (x0, y0, x1, y1), _ in OBJECTS[1:]:
        # The middle of an object is one cell at least, all of it.
        row, column = round((y0 + y1) / 2 * scale), round((x0 + x1) / 2 * scale)
        colours.append(tuple(shown[Colours.STORE][row, column]))
    assert len(set(colours)) == len(colours)
    assert (shown[Colours.STORE] != shown[Colours.NORM]).any()
    assert client.get(f"{address}/card.png").headers["content-type"] == "image/png"


def test_the_stores_colours_compare_between_images(store: FeatureStore, written: ViewedWorkspace) -> None:
    pictures = FeaturePictures(store)
    frame = (160, 120, (WIDTH_PX, HEIGHT_PX))
    first, last = (_pixels(pictures.whole(written.image_ids[n], Colours.STORE, *frame)) for n in (0, 28))
    # The same red cup on grounds of different grey: same colour there, another one around it.
    assert np.abs(first[25, 25] - last[25, 25]).max() <= 4
    assert np.abs(first[5, 80] - last[5, 80]).max() > 8


def test_pictures_of_a_named_corpus(root: Path, store: FeatureStore, written: ViewedWorkspace, tmp_path: Path) -> None:
    # A copy of the store alone, in a workspace without corpora.
    for info in store.objects.list():
        Objects.open(tmp_path / "features" / "copy").create(info.key, store.objects.read(info.key))
    alone, address = str(tmp_path / "features" / "copy"), f"/features/images/{written.image_ids[2]}"
    without = _client(alone)
    assert "No corpus is at hand" in without.get(address).text
    assert without.get(f"{address}/original.jpg").status_code == 404
    assert _pixels(without.get(f"{address}/store.png").content).shape == (570, 760, 3)
    named = _client(alone, corpus=str(root / "curate" / written.corpus))
    assert named.get(f"{address}/original.jpg").headers["content-type"] == "image/jpeg"
    with pytest.raises(ObjectNotFound, match="no corpus there"):
        open_page(alone, PageOptions(corpus=str(tmp_path / "absent")))


def test_images_that_no_corpus_holds(store: FeatureStore, written: ViewedWorkspace) -> None:
    originals = Originals(store.objects, coverage_statements(store.objects))
    assert originals.image("nobody") is None
    found = originals.image(written.image_ids[0])
    assert found is not None
    assert found.sources == ("0.png",)


@pytest.mark.parametrize("rest", ["", "/card.png", "/store.png", "/original.jpg"])
def test_what_is_not_there(client: TestClient, written: ViewedWorkspace, rest: str) -> None:
    for image_id in ("f" * 64, written.rejected, "%2e%2e"):
        answer = client.get(f"/features/images/{image_id}{rest}")
        assert answer.status_code == 404
    assert client.get(f"/features/images/{written.image_ids[0]}/red.png").status_code == 404


def test_a_torn_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    objects = Objects.open(tmp_path / "store")
    write_many_features(objects, 8)
    client = _client(objects.url)
    (shard,) = (tmp_path / "store" / "parts").glob("*/*/c/*/0/0")
    shard.write_bytes(shard.read_bytes()[:-7])
    answer = client.get(f"/features/images/{image_name(3)}/store.png")
    assert answer.status_code == 500
    assert "restore it, or run teach into a new store" in answer.text


def test_a_first_page_of_many_images(tmp_path: Path) -> None:
    objects = Objects.open(tmp_path / "store")
    write_many_features(objects, 5_000, images_per_part=2_000)
    begun_s = time.process_time()
    html = _client(objects.url).get("/features/").text
    assert time.process_time() - begun_s < 2
    assert _num(html) == 4_995
    assert "page 1 of 105" in html
    assert _num(html) == len(ImageTable(FeatureStore.open(objects)).table)
