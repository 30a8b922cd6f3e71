"""`sailloft predict`: what it prints and draws, and how it refuses."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import cli
from model.drawing import MASK_COLOURS, PROMPT
from model.predictor import Answer, Predictor
from storage.masks import mask_from_coco

WIDTH, HEIGHT = 40, 24

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    pixels[4:12, 5:15] = (220, 30, 30)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def predict(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], masking_checkpoint: Path, picture: Path
) -> Run:
    """Asks the tiny student about the picture; gives exit code, standard output and standard error."""

    def run(
        *arguments: object, checkpoint: object = masking_checkpoint, image: object = picture
    ) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sailloft", "predict", str(checkpoint), str(image), *map(str, arguments)])
        code = cli.main()
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[np.ndarray]]:
    """Regions of each question, which gets a fixed answer with two masks."""
    seen: list[Sequence[np.ndarray]] = []

    def answer(
        self: Predictor,
        image: np.ndarray,
        text: str,
        prompts: Sequence[np.ndarray],
        max_new_tokens: int,
        on_text: Callable[[str], None] | None,
    ) -> Answer:
        del self, text, max_new_tokens
        seen.append(prompts)
        for piece in ("It is [SEG] ", "and [SEG]", "\x1b[2J.") if on_text else ():
            on_text(piece)
        left = np.zeros(image.shape[:2], bool)
        left[:, : WIDTH // 2] = True
        return Answer("It is [SEG] and [SEG]\x1b[2J.", (left, np.zeros_like(left)), (0.875, 0.5))

    monkeypatch.setattr(Predictor, "predict", answer)
    return seen


def test_text_then_masks(predict: Run) -> None:
    code, out, err = predict("the red square", "--max-new-tokens", 2)
    lines = out.splitlines()
    assert (code, err, lines[0], len(lines)) == (0, "", "[SEG][SEG]", 3)
    assert lines[1].startswith("mask 1  score 0.")


def test_lines_of_masks(predict: Run, asked: object) -> None:
    assert predict("the red square")[1].splitlines() == [
        "It is [SEG] and [SEG]\ufffd[2J.",
        "mask 1  score 0.88  480 px  50.0% of the picture",
        "mask 2  score 0.50  empty",
    ]


def test_an_answer_without_masks_says_so(predict: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "predict", lambda *_: Answer("a ring", (), ()))
    assert predict("what is it?")[1] == "a ring\nno mask\n"


def test_json_holds_text_scores_masks_and_size(predict: Run, tmp_path: Path) -> None:
    code, out, _ = predict("the red square", "--json", "--max-new-tokens", 3, "--to", tmp_path / "masked.png")
    answer = json.loads(out)
    assert code == 0
    assert list(answer) == ["text", "scores", "masks", "size"]
    assert (answer["text"], answer["size"], len(answer["scores"])) == ("[SEG]" * 3, [HEIGHT, WIDTH], 3)
    assert {tuple(mask["size"]) for mask in answer["masks"]} == {(HEIGHT, WIDTH)}
    assert (tmp_path / "masked.png").is_file()


def test_masks_in_json_are_readable_as_coco(predict: Run, asked: object) -> None:
    masks = json.loads(predict("the red square", "--json")[1])["masks"]
    assert mask_from_coco(masks[0], HEIGHT, WIDTH).counts == masks[0]["counts"].encode()


@pytest.mark.parametrize("name", ["masked.png", "masked.JPG"])
def test_output_is_the_picture_with_masks_and_regions(predict: Run, asked: object, tmp_path: Path, name: str) -> None:
    code, out, _ = predict("left of <region1>", "--box", "24,4,36,20", "--to", tmp_path / name)
    assert (code, out.splitlines()[-1]) == (0, f"picture: {tmp_path / name}")
    with Image.open(tmp_path / name) as image:
        shown = np.asarray(image)
    assert shown.shape == (HEIGHT, WIDTH, 3)
    if name == "masked.png":
        assert tuple(shown[10, WIDTH // 2 - 1]) == MASK_COLOURS[0]
        assert tuple(shown[4, 30]) == PROMPT
        assert tuple(shown[8, 10]) == (220, 30, 30)
        assert shown[1, 38].max() < 110


def test_regions_are_numbered_in_the_order_given(
    predict: Run, asked: list[Sequence[np.ndarray]], tmp_path: Path
) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:22, 30:33] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    names = " ".join(f"<region{number}>" for number in range(1, 4))
    code, _, err = predict("--point", "3,4", f"--mask={tmp_path / 'mask.png'}", names, "--point", "20,20")
    assert (code, err) == (0, "")
    first, second, third = asked[0]
    assert first[4, 3]
    assert (second == (mask > 0)).all()
    assert third[19, 19]
    assert predict("--scribble", "2,2;30,2", "--box=-5,10,10,99", "<region1> <region2>")[0] == 0
    line, box = asked[1]
    assert line[2, 15]
    assert not line[5:].any()
    assert box[10:, :10].all()
    assert box.sum() == 140


def test_regions_reach_the_student(predict: Run) -> None:
    assert predict("describe <region1>", "--point", "3,4", "--max-new-tokens", 1)[1].startswith("[SEG]\n")


def test_an_upside_down_photograph_is_turned(predict: Run, picture: Path, tmp_path: Path) -> None:
    photo = Image.open(picture)
    exif = photo.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    photo.save(tmp_path / "photo.jpg", exif=exif)
    out = predict("the red square", "--json", "--max-new-tokens", 1, image=tmp_path / "photo.jpg")[1]
    assert json.loads(out)["size"] == [WIDTH, HEIGHT]


class Terminal(io.StringIO):
    """A standard output that someone looks at."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_text_streams_and_masks_have_colours(
    predict: Run, asked: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_color: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("NO_COLOR", no_color)
    assert predict("the red square", "--to", tmp_path / "masked.png")[0] == 0
    first, second = terminal.getvalue().splitlines()[:2]
    assert first == "It is [SEG] and [SEG]\ufffd[2J."
    assert ("\x1b[38;2;255;45;149m■ " in second) is not bool(no_color)
    assert second.endswith("mask 1  score 0.88  480 px  50.0% of the picture")


def test_json_is_never_streamed(predict: Run, asked: object, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert predict("the red square", "--json")[0] == 0
    assert json.loads(terminal.getvalue())["scores"] == [0.875, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("  ",), "TEXT: expected a question, got '  '"),
        (("the square", "--box", "1,2,3,4"), "--box 1,2,3,4: expected it named in the text as <region1>"),
        (("the square left of <region1>",), "<region1>: expected one of 0 regions"),
        (("<region1> <region0>", "--point", "1,1"), "<region0>: expected one of 1 regions"),
        (("<region1>", "--box", "1,2,3"), "--box: expected x0,y0,x1,y1 in pixels, got '1,2,3'; write numbers"),
        (("<region1>", "--point", "one,two"), "--point: expected x,y in pixels, got 'one,two'"),
        (("<region1>", "--scribble", "1,1;2"), "--scribble: expected x,y;x,y;... in pixels, got '1,1;2'"),
        (("<region1>", "--scribble", ";"), "expected [(x, y), ...], got no point"),
        (("<region1>", "--box", "9,2,3,4"), "<region1> (--box 9,2,3,4): box: expected (x0, y0, x1, y1) with x0 < x1"),
        (("<region1>", "--box", "90,2,93,4"), "expected pixels inside 40 x 24, got none"),
        (("<region1>", "--point", "40,2"), "expected points inside the picture of 40 x 24 px"),
        (("<region1>", "--point", "nan,2"), "expected finite numbers"),
        (("<region1>", "--mask", "no-such.png"), "--mask no-such.png: expected an image file, found none"),
        (("<region1><region2><region3><region4>", *["--point", "1,1"] * 4), "expected at most 3, which this student"),
        (("the square", "--to", "masked.xyz"), "expected a name that ends like a picture's, got '.xyz'; end it in"),
        (("the square", "--to", "no/such/masked.png"), "expected a folder no/such, found none; make it first"),
        (("the square", "--device", "abacus"), "--device abacus: expected a device of this machine"),
        (("the square", "--max-new-tokens", "0"), "Invalid value for '--max-new-tokens'"),
        (("the square", "--boxes", "1,2,3,4"), "No such option"),
        ((), "Missing argument"),
    ],
)
def test_wrong_usage(predict: Run, arguments: Sequence[str], message: str) -> None:
    code, out, err = predict(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (24, 40), 255), "expected the picture's size, 40 x 24 px (width x height), got 24 x 40 px"),
        (Image.new("L", (40, 24)), "expected black outside the region and one other level inside, got 1 levels"),
        (Image.linear_gradient("L").resize((40, 24)), "save it in black and white"),
        (Image.new("RGBA", (40, 24)), "got mode RGBA"),
    ],
)
def test_masks_that_cannot_be_used(predict: Run, tmp_path: Path, mask: Image.Image, message: str) -> None:
    mask.save(tmp_path / "mask.png")
    code, _, err = predict("<region1>", "--mask", tmp_path / "mask.png")
    assert code == 2
    assert message in err


def test_pictures_that_cannot_be_read(predict: Run, tmp_path: Path, picture: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "torn.png").write_bytes(picture.read_bytes()[:60])
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    for name, message in (
        ("none.png", "expected an image file, found none; correct the path"),
        ("text.png", "expected an image that PIL can read"),
        ("torn.png", "expected an image that PIL can read"),
        ("deep.png", "expected values from 0 to 255"),
        (".", "expected an image that PIL can read"),
    ):
        code, _, err = predict("the square", image=tmp_path / name)
        assert code == 2, name
        assert f"picture {tmp_path / name}" in err
        assert message in err


def test_the_picture_itself_is_not_overwritten(predict: Run, picture: Path) -> None:
    before = picture.read_bytes()
    code, _, err = predict("the square", "--to", picture)
    assert (code, picture.read_bytes()) == (2, before)
    assert "expected another file than the picture itself" in err


def test_an_output_that_cannot_be_written(predict: Run, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    code, _, err = predict("the square", "--to", tmp_path / "folder.png", "--max-new-tokens", 1)
    assert code == 2
    assert "expected a file that can be written" in err


def test_checkpoints_that_are_none(predict: Run, masking_checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = predict("the square", checkpoint=tmp_path / "nowhere")
    assert code == 4
    assert "found no config.json; `sailloft run RECIPE --dry-run` shows" in err
    assert not (tmp_path / "nowhere").exists()
    config = masking_checkpoint / "config.json"
    own = config.read_text()
    for content, message in (
        ('{"model_type": "llama"}', "expected model_type 'pixel_sail', got 'llama'"),
        ("{", "got another config.json"),
        ('{"model_type": "pixel_sail", "hidden_size": "wide"}', "got another config.json"),
    ):
        config.write_text(content)
        code, _, err = predict("the square")
        assert code == 2
        assert message in err
    config.write_text(own)
    weights = masking_checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    code, _, err = predict("the square")
    assert code == 3
    assert "expected whole weights" in err
    weights.unlink()
    code, _, err = predict("the square")
    assert code == 4
    assert "model.safetensors" in err


def test_help_has_examples(predict: Run) -> None:
    code, out, _ = predict("--help")
    assert code == 0
    assert "sailloft predict CHECKPOINT photo.jpg 'describe <region1>' --box 40,60,200,180" in out
