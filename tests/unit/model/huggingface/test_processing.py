"""From chats, pictures and regions to tensors, and from mask logits to masks."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tokenizers import Tokenizer, models
from torch.nn import functional
from transformers import AutoProcessor, AutoTokenizer, TokenizersBackend

from model.config import StudentConfig
from model.huggingface import PixelSailProcessor
from model.huggingface.processing import model_inputs
from model.processor import EncodedRow, Picture, Processor, Text
from model.regions import region_mask
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from storage.schema import PromptKind, VisualPrompt

MakePicture = Callable[..., NDArray[np.uint8]]
PICTURE = "<vision><vpatch></vision>"
QUESTION = f"{PICTURE}<|im_start|>user\nwhat is <region1>?<|im_end|>\n"


def user(text: str, *images: object) -> dict[str, Any]:
    blocks = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*blocks, {"type": "text", "text": text}]}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def chat(processor: PixelSailProcessor, messages: list[Any], **options: Any) -> dict[str, Any]:
    return dict(processor.apply_chat_template(messages, tokenize=True, return_dict=True, processor_kwargs=options))


def check(found: dict[str, Any], rows: Sequence[EncodedRow], tokenizer: StudentTokenizer) -> None:
    """That a call gave exactly what these rows give."""
    expected = model_inputs(rows, tokenizer)
    if "labels" not in found:
        del expected["labels"]
    assert list(found) == [name for name in expected if name in found]
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].equal(tensor), name
        assert found[name].dtype == tensor.dtype


# Saving and loading


def test_round_trip(hf_processor: PixelSailProcessor, tmp_path: Path, picture: MakePicture, logged: list[str]) -> None:
    hf_processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is PixelSailProcessor
    for name in ("patch_size_px", "max_side_px", "visual_prompt", "chat_template"):
        assert getattr(loaded, name) == getattr(hf_processor, name)
    assert loaded.to_dict() == hf_processor.to_dict()
    messages = [user("where is the ring?", picture(20, 30)), assistant("It is [SEG].")]
    found, expected = (chat(each, messages, return_labels=True) for each in (loaded, hf_processor))
    assert found.keys() == expected.keys()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    assert logged == []


def test_our_folder_is_read(folder: Path, hf_processor: PixelSailProcessor, logged: list[str]) -> None:
    for loaded in (AutoProcessor.from_pretrained(folder), PixelSailProcessor.from_pretrained(folder)):
        assert type(loaded) is PixelSailProcessor
        assert loaded.to_dict() == hf_processor.to_dict()
        assert loaded.chat_template == hf_processor.chat_template
        assert loaded.tokenizer.get_vocab() == hf_processor.tokenizer.get_vocab()
    assert AutoTokenizer.from_pretrained(folder)("a ring [SEG]")["input_ids"]
    assert logged == []


def test_both_write_the_same_files(folder: Path, hf_processor: PixelSailProcessor, tmp_path: Path) -> None:
    hf_processor.save_pretrained(tmp_path / "theirs")
    for name in ("processor_config.json", "tokenizer.json"):
        ours, theirs = (json.loads((place / name).read_text()) for place in (folder, tmp_path / "theirs"))
        theirs.pop("post_processor", None)  # one that adds nothing
        assert {key: ours[key] for key in theirs} == theirs, name
    assert (folder / "chat_template.jinja").read_bytes() == (tmp_path / "theirs/chat_template.jinja").read_bytes()


def test_pooled_and_other_sizes_survive(config: StudentConfig, tokenizer: StudentTokenizer, tmp_path: Path) -> None:
    wanted = config.model_copy(update={"visual_prompt": "pooled", "patch_size_px": 4, "max_side_px": 32})
    PixelSailProcessor.of(wanted, tokenizer).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert (loaded.visual_prompt, loaded.patch_size_px, loaded.max_side_px) == ("pooled", 4, 32)


def test_another_chat_template(hf_processor: PixelSailProcessor, tmp_path: Path) -> None:
    own = PixelSailProcessor(hf_processor.tokenizer, 8, 64, chat_template="{{ messages[0]['content'] }}")
    own.save_pretrained(tmp_path)
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    assert AutoProcessor.from_pretrained(tmp_path).apply_chat_template(messages) == "hello"


def test_a_tokenizer_of_others_is_refused() -> None:
    tokenizer = TokenizersBackend(tokenizer_object=Tokenizer(models.BPE()))
    message = r"tokenizer: expected the student's special tokens, these are missing: <\|endoftext\|>, .*\[SEG\]"
    with pytest.raises(ValueError, match=message):
        PixelSailProcessor(tokenizer)


def test_wrong_sizes_are_refused(hf_processor: PixelSailProcessor) -> None:
    with pytest.raises(ValueError, match="max_side_px: expected a multiple of patch_size_px 8, got 60"):
        PixelSailProcessor(hf_processor.tokenizer, patch_size_px=8, max_side_px=60)


def test_input_names(hf_processor: PixelSailProcessor, picture: MakePicture) -> None:
    found = hf_processor(images=picture(8, 8), text=f"{PICTURE}hello")
    assert set(found) < set(hf_processor.model_input_names)


# Chats


def test_one_turn(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    image = picture(20, 30)
    found = chat(hf_processor, [user("segment the red square", image)])
    check(found, [processor.encode(image, [("segment the red square", None)])], tokenizer)
    again = chat(hf_processor, [user("segment the red square", image)], add_special_tokens=False, padding=True)
    assert all(again[name].equal(tensor) for name, tensor in found.items())


def test_many_turns(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    image = picture(20, 30)
    turns = [("where is it?", "It is [SEG]."), ("and the\nblue ring?  ", " No target [SEG]. "), ("describe", None)]
    messages = [user("where is it?", image), assistant("It is [SEG]."), user("and the\nblue ring?  ")]
    messages += [assistant(" No target [SEG]. "), user("describe")]
    check(chat(hf_processor, messages), [processor.encode(image, turns)], tokenizer)
    labelled = chat(hf_processor, messages, return_labels=True)
    check(labelled, [processor.encode(image, turns)], tokenizer)
    answers = tokenizer.encode("It is [SEG].<|endoftext|>") + tokenizer.encode(" No target [SEG]. <|endoftext|>")
    assert labelled["labels"][labelled["labels"] != -100].tolist() == answers


def test_a_picture_in_each_turn(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    first, second, third = picture(8, 8, 1), picture(16, 8, 2), picture(8, 24, 3)
    messages = [
        user("compare", first, second),
        assistant("Alike."),
        user("and this?", third),
        assistant("It is [SEG]."),
    ]
    row = processor.encode_parts(
        [
            Picture(first),
            Picture(second),
            Text("<|im_start|>user\ncompare<|im_end|>\n"),
            Text("Alike.<|endoftext|>", is_answer=True),
            Picture(third),
            Text("<|im_start|>user\nand this?<|im_end|>\n"),
            Text("It is [SEG].<|endoftext|>", is_answer=True),
        ]
    )
    check(chat(hf_processor, messages, return_labels=True), [row], tokenizer)


def test_text_alone_as_a_string(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer
) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    found = chat(hf_processor, messages, return_labels=True)
    check(found, [processor.encode(None, [("hello", "good day")])], tokenizer)
    assert "pixel_values" not in found


def test_a_batch_of_chats(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    """Text alone among them, and one with two pictures."""
    first, second, third = picture(8, 8, 1), picture(16, 8, 2), picture(8, 24, 3)
    chats = [[user("what", first)], [user("hello")], [user("both", second, third)]]
    rows = [
        processor.encode(first, [("what", None)]),
        processor.encode(None, [("hello", None)]),
        processor.encode_parts([Picture(second), Picture(third), Text("<|im_start|>user\nboth<|im_end|>\n")]),
    ]
    check(chat(hf_processor, chats), rows, tokenizer)
    check(chat(hf_processor, [[user("hello")]]), rows[1:2], tokenizer)


def test_an_answer_that_goes_on(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    image = picture(8, 8)
    messages: list[Any] = [user("what", image), assistant("It is")]
    found = hf_processor.apply_chat_template(messages, tokenize=True, return_dict=True, continue_final_message=True)
    row = processor.encode(image, [("what", None)])
    assert found["input_ids"].tolist() == [row.input_ids.tolist() + tokenizer.encode("It is")]


def test_a_generation_prompt_adds_nothing(hf_processor: PixelSailProcessor) -> None:
    messages: list[Any] = [user("what")]
    texts = [hf_processor.apply_chat_template(messages, add_generation_prompt=wanted) for wanted in (True, False)]
    assert texts == ["<|im_start|>user\nwhat<|im_end|>\n"] * 2


def test_openais_form_of_a_picture(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    image = picture(8, 16)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    blocks = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what"}]
    check(
        chat(hf_processor, [{"role": "user", "content": blocks}]),
        [processor.encode(image, [("what", None)])],
        tokenizer,
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "system", "content": "be kind"}], "role: expected user or assistant, got system"),
        ([{"role": "user", "content": [{"type": "video"}]}], "expected blocks of type image or text, got video"),
        ([user("a"), {"role": "assistant", "content": [{"type": "image"}]}], "answer: expected .* text, got image"),
    ],
)
def test_what_the_template_refuses(hf_processor: PixelSailProcessor, messages: list[Any], message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        hf_processor.apply_chat_template(messages)


# Texts by hand


def test_a_picture_within_a_question(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    image = picture(8, 16)
    text = f"<|im_start|>user\nlook at {PICTURE} this<|im_end|>\nIt is [SEG].<|endoftext|>"
    row = processor.encode_parts(
        [
            Text("<|im_start|>user\nlook at "),
            Picture(image),
            Text(" this<|im_end|>\n"),
            Text("It is [SEG].<|endoftext|>", is_answer=True),
        ]
    )
    check(dict(hf_processor(images=image, text=text, return_labels=True)), [row], tokenizer)


@pytest.mark.parametrize(
    ("text", "is_answer"),
    [
        ("hello", False),
        ("<|im_start|>user\nhello", False),
        ("<|im_start|>", False),
        ("<|im_start|>user\nhello<|im_end|>\nIt is", False),
        ("It is.<|endoftext|>", True),
        ("<|im_start|>user\na<|endoftext|>b<|im_end|>\n<|endoftext|>c", False),
        ("<|im_end|>\n\n<|im_start|><|im_start|>", False),
    ],
)
def test_special_tokens_stay_whole(
    hf_processor: PixelSailProcessor, tokenizer: StudentTokenizer, text: str, *, is_answer: bool
) -> None:
    found = hf_processor(text=text, return_labels=True)
    assert tokenizer.decode(found["input_ids"][0].tolist()) == text
    pieces = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    ids = found["input_ids"][0].tolist()
    assert [ids.count(tokenizer.encode(piece)[0]) for piece in pieces] == [text.count(piece) for piece in pieces]
    assert int((found["labels"] >= 0).sum()) == (len(ids) if is_answer else 0)


def test_patches_already_written_out(
    hf_processor: PixelSailProcessor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    """The text of a batch that was decoded gives the same batch."""
    found = hf_processor(images=picture(16, 24), text=f"{PICTURE}hello")
    text = tokenizer.decode(found["input_ids"][0].tolist())
    assert text.count("<vpatch>") == 6
    again = hf_processor(images=picture(16, 24), text=text)
    assert all(again[name].equal(found[name]) for name in found)


# Pictures


def in_many_forms(image: NDArray[np.uint8], folder: Path) -> dict[str, object]:
    Image.fromarray(image).save(folder / "picture.png")
    file = (folder / "picture.png").read_bytes()
    return {
        "PIL": Image.fromarray(image),
        "NumPy": image,
        "torch": torch.from_numpy(image).permute(2, 0, 1),
        "floats": torch.from_numpy(image).permute(2, 0, 1) / 255,
        "path as text": str(folder / "picture.png"),
        "path": folder / "picture.png",
        "base64": base64.b64encode(file).decode(),
    }


def test_pictures_in_every_form(
    hf_processor: PixelSailProcessor,
    processor: Processor,
    tokenizer: StudentTokenizer,
    picture: MakePicture,
    tmp_path: Path,
) -> None:
    image = picture(20, 30)
    row = processor.encode(image, [("what", None)])
    text = f"{PICTURE}<|im_start|>user\nwhat<|im_end|>\n"
    for form in in_many_forms(image, tmp_path).values():
        check(dict(hf_processor(images=form, text=text)), [row], tokenizer)
        check(dict(hf_processor(form, text)), [row], tokenizer)
        check(dict(hf_processor(images=[form], text=[text])), [row], tokenizer)
        check(dict(hf_processor(images=[[form]], text=text)), [row], tokenizer)
        check(chat(hf_processor, [user("what", form)]), [row], tokenizer)
    key_of_path = {"role": "user", "content": [{"type": "image", "path": str(tmp_path / "picture.png")}, *TEXT_BLOCK]}
    check(chat(hf_processor, [key_of_path]), [row], tokenizer)


TEXT_BLOCK = [{"type": "text", "text": "what"}]


def test_files_are_read_as_they_are_stored(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer, tmp_path: Path
) -> None:
    """Masks and boxes mean stored pixels; a picture from a file is no other than the same one opened."""
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.fromarray(np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)).save(tmp_path / "a.png", exif=tag)
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.getexif()[0x0112] == 6
        row = processor.encode(np.asarray(opened), [("what", None)])
        for form in (opened, tmp_path / "a.png", str(tmp_path / "a.png")):
            check(chat(hf_processor, [user("what", form)]), [row], tokenizer)


def test_batches(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    """One picture each, several, none."""
    first, second, third = picture(8, 8, 1), picture(16, 8, 2), picture(8, 24, 3)
    texts = [f"{PICTURE}one", "none", f"{PICTURE}{PICTURE}two"]
    found = hf_processor(images=[first, None, (second, third)], text=texts)
    rows = [
        processor.encode_parts([Picture(first), Text("one")]),
        processor.encode_parts([Text("none")]),
        processor.encode_parts([Picture(second), Picture(third), Text("two")]),
    ]
    check(dict(found), rows, tokenizer)
    assert found["attention_mask"].sum(1).tolist() == [len(row.input_ids) for row in rows]
    assert int(found["attention_mask"][:, -1].sum()) == 3  # padded on the left
    assert found["image_grids"].tolist() == [[1, 1], [2, 1], [1, 3]]
    without_pictures = hf_processor(text=["none", "at all"])
    assert list(without_pictures) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("size", [(8, 8), (20, 30), (64, 64), (200, 90), (7, 300)])
def test_resized_as_pil_does_it(hf_processor: PixelSailProcessor, picture: MakePicture, size: tuple[int, int]) -> None:
    """Through the whole processor: bilinear, ImageNet's mean and deviation, patches row by row."""
    image = Image.fromarray(picture(*size))
    found = hf_processor(images=image, text=PICTURE)
    rows, columns = found["image_grids"][0].tolist()
    assert max(rows, columns) == min(-(-max(size) // 8), 8)
    resized = np.asarray(image.resize((columns * 8, rows * 8), Image.Resampling.BILINEAR), np.float32) / 255
    expected = (resized - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    back = found["pixel_values"].view(rows, columns, 3, 8, 8).permute(0, 3, 1, 4, 2).reshape(rows * 8, columns * 8, 3)
    np.testing.assert_allclose(back.numpy(), expected, atol=1e-6)


# Regions


HEIGHT, WIDTH = 32, 48


def marked(rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[rows, columns] = True
    return mask


MASK = marked(slice(3, 12), slice(9, 20))
REGIONS: dict[str, Any] = {
    "box": {"box": (9, 3, 20, 12)},
    "box out of the picture": {"box": (-5, 20, 9, 100)},
    "point": {"point": (40.5, 20)},
    "points": {"points": [(3, 3), (40, 30)]},
    "scribble": {"scribble": [(2, 2), (20, 30), (45, 3)]},
    "mask": MASK,
    "named mask": {"mask": MASK},
    "mask of torch": torch.from_numpy(MASK),
    "mask of numbers": torch.from_numpy(MASK).float()[None],
    "mask of PIL": Image.fromarray(MASK),
    "mask of PIL in grey": Image.fromarray(MASK.astype(np.uint8) * 255),
    "visual prompt": VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(9.0, 3.0, 20.0, 12.0)),
}


@pytest.mark.parametrize("kind", list(REGIONS))
@pytest.mark.parametrize("way", ["injected", "pooled"])
def test_regions_are_the_masks_that_they_stand_for(
    config: StudentConfig, tokenizer: StudentTokenizer, picture: MakePicture, kind: str, way: str
) -> None:
    wanted = config.model_copy(update={"visual_prompt": way})
    hf_processor, processor = PixelSailProcessor.of(wanted, tokenizer), Processor(wanted, tokenizer)
    image, region = picture(HEIGHT, WIDTH), REGIONS[kind]
    mask = region_mask(region, HEIGHT, WIDTH)
    if "mask" in kind or kind in ("box", "visual prompt"):
        np.testing.assert_array_equal(mask, MASK)
    row = processor.encode(image, [("what is <Prompt0>?", None)], [(0, mask)])
    found = dict(hf_processor(images=image, text=QUESTION, visual_prompts=[region]))
    check(found, [row], tokenizer)
    assert (found["visual_prompt_ids"] == tokenizer.visual_prompts[0]).any()
    assert ("pooled_tokens" in found) == (way == "pooled")
    check(chat(hf_processor, [user("what is <region1>?", image)], visual_prompts=[region]), [row], tokenizer)
    check(chat(hf_processor, [user("what is <Prompt0>?", image)], visual_prompts=[mask]), [row], tokenizer)


def test_small_regions_lie_on_large_ones(
    hf_processor: PixelSailProcessor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    text = f"{PICTURE}<region1> and <region2>"
    whole, part = {"box": (0, 0, WIDTH, HEIGHT)}, {"box": (0, 0, 8, 8)}
    for regions, expected in (([whole, part], (1, 0)), ([part, whole], (0, 1))):
        found = hf_processor(images=picture(HEIGHT, WIDTH), text=text, visual_prompts=regions)
        ids = found["visual_prompt_ids"].tolist()
        assert ids == [tokenizer.visual_prompts[expected[0]]] + [tokenizer.visual_prompts[expected[1]]] * 23


@pytest.mark.parametrize("number", [1, np.int64(1)])
def test_a_region_on_another_picture(
    hf_processor: PixelSailProcessor,
    processor: Processor,
    tokenizer: StudentTokenizer,
    picture: MakePicture,
    number: object,
) -> None:
    first, second = picture(16, 16, 1), picture(HEIGHT, WIDTH, 2)
    row = processor.encode_parts(
        [
            Picture(first, [(1, np.ones((16, 16), np.bool_))]),
            Picture(second, [(0, MASK)]),
            Text("<|im_start|>user\n<Prompt0> <Prompt1><|im_end|>\n"),
        ]
    )
    regions = [{"box": (9, 3, 20, 12), "image": number}, {"mask": np.ones((16, 16), np.bool_), "image": 0}]
    found = chat(hf_processor, [user("<region1> <region2>", first, second)], visual_prompts=regions)
    check(found, [row], tokenizer)
    assert regions[0] == {"box": (9, 3, 20, 12), "image": number}


def test_regions_of_a_batch(
    hf_processor: PixelSailProcessor, processor: Processor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    image = picture(HEIGHT, WIDTH)
    chats = [[user("what is <region1>?", image)], [user("hello")], [user("where?", image)]]
    found = chat(hf_processor, chats, visual_prompts=[[{"box": (9, 3, 20, 12)}], None, []])
    rows = [
        processor.encode(image, [("what is <Prompt0>?", None)], [(0, MASK)]),
        processor.encode(None, [("hello", None)]),
        processor.encode(image, [("where?", None)]),
    ]
    check(found, rows, tokenizer)


# Lengths


def test_too_long_is_refused(hf_processor: PixelSailProcessor, picture: MakePicture) -> None:
    text = f"{PICTURE}hello"
    length = hf_processor(images=picture(16, 16), text=text)["input_ids"].shape[1]
    assert hf_processor(images=picture(16, 16), text=text, max_length=length)["input_ids"].shape[1] == length
    message = rf"text 0: expected at most {length - 1} tokens, got {length} \(4 of them patches\); raise max_length"
    with pytest.raises(ValueError, match=message):
        hf_processor(images=picture(16, 16), text=text, max_length=length - 1)


def test_plain_text_may_be_cut(
    hf_processor: PixelSailProcessor, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    texts = [f"{PICTURE}<|im_start|>user\nhello<|im_end|>\nIt is [SEG], the ring.<|endoftext|>", "short"]
    whole = hf_processor(images=[picture(16, 16), None], text=texts, return_labels=True)
    most = whole["input_ids"].shape[1] - 4
    cut = hf_processor(images=[picture(16, 16), None], text=texts, return_labels=True, max_length=most, truncation=True)
    assert cut["input_ids"].shape == (2, most)
    for name in ("input_ids", "attention_mask", "labels"):
        assert cut[name][0].equal(whole[name][0, :-4])
        assert cut[name][1].equal(whole[name][1, 4:])
    assert cut["pixel_values"].equal(whole["pixel_values"])


def test_regions_may_be_cut_off(config: StudentConfig, tokenizer: StudentTokenizer, picture: MakePicture) -> None:
    """With their tokens go the pairs that they are made of."""
    hf_processor = PixelSailProcessor.of(config.model_copy(update={"visual_prompt": "pooled"}), tokenizer)
    text, regions = f"{PICTURE}<region1> or <region2>", [{"box": (0, 0, 8, 8)}, {"box": (8, 8, 16, 16)}]
    whole = hf_processor(images=picture(16, 16), text=text, visual_prompts=regions)
    assert whole["pooled_tokens"].tolist() == [0, 1]
    most = whole["input_ids"].shape[1] - 1
    cut = hf_processor(images=picture(16, 16), text=text, visual_prompts=regions, max_length=most, truncation=True)
    assert cut["pooled_tokens"].tolist() == [0]
    assert cut["pooled_patches"].tolist() == whole["pooled_patches"].tolist()[:1]


@pytest.mark.parametrize(
    ("text", "lost", "message"),
    [
        ("{p}", 1, "would lose 1 tokens of pictures and 0 .SEG."),
        ("a{p}", 4, "would lose 4 tokens of pictures"),
        ("a{p}", 6, "would lose 6 tokens of pictures"),
        ("{p}<|im_start|>user\nq<|im_end|>\n[SEG].<|endoftext|>", 3, "would lose 0 tokens of pictures and 1 .SEG."),
    ],
)
def test_pictures_and_masks_are_not_cut(
    hf_processor: PixelSailProcessor, picture: MakePicture, text: str, lost: int, message: str
) -> None:
    given = {"images": picture(16, 16), "text": text.format(p=PICTURE)}
    length = hf_processor(**given)["input_ids"].shape[1]
    with pytest.raises(ValueError, match=rf"text 0: cutting {length} tokens to {length - lost} {message}"):
        hf_processor(**given, max_length=length - lost, truncation=True)
    kept = hf_processor(**given, max_length=length, truncation=True)
    assert kept["input_ids"].shape[1] == length


def test_the_tokenizer_may_be_used_by_itself(hf_processor: PixelSailProcessor) -> None:
    """What it was told then doesn't count here."""
    text = "segment the red square and the blue ring"
    expected = hf_processor(text=text)
    hf_processor.tokenizer(text, truncation=True, max_length=3)
    hf_processor.tokenizer(text, padding="max_length", max_length=300)
    other = hf_processor(text=text + "!")
    assert other["input_ids"].shape[1] == expected["input_ids"].shape[1] + 1
    hf_processor.tokenizer(text, truncation=True, padding="max_length", max_length=3)
    assert hf_processor(text=text + "?")["input_ids"].shape == other["input_ids"].shape


# What is refused


def call(**given: Any) -> dict[str, Any]:
    return given


SMALL = np.zeros((8, 8, 3), np.uint8)
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    (call(text=None), ValueError, "text: expected a question, got None; apply_chat_template makes one"),
    (call(text=""), ValueError, "text: expected a question, got ''"),
    (call(text=[]), ValueError, r"text: expected texts that aren't empty, got \[\]"),
    (call(text=["a", ""]), ValueError, r"text: expected texts that aren't empty, got \['a', ''\]"),
    (call(text="a", images=SMALL), ValueError, "text 0: images: expected 0, one per <vision><vpatch></vision>.* got 1"),
    (call(text=PICTURE), ValueError, "text 0: images: expected 1, .* got 0; apply_chat_template puts one for each"),
    (call(text=[PICTURE, "a"], images=[[SMALL, SMALL], None]), ValueError, "text 0: images: expected 1, .* got 2"),
    (call(text=["a", PICTURE], images=SMALL), ValueError, "images: expected a list of 2, one entry per text, got one"),
    (call(text=[PICTURE, "a"], images=[SMALL]), ValueError, "images: expected 2 entries, one per text, got 1"),
    (call(text=["a"], visual_prompts=[[], []]), ValueError, "visual_prompts: expected 1 entries, one per text, got 2"),
    (call(text=PICTURE, images=3), TypeError, r"text 0: picture 1: expected a picture \(PIL image, NumPy array or"),
    (call(text=["a", PICTURE], images=[None, [b""]]), TypeError, "text 1: picture 1: expected a picture"),
    (call(text=PICTURE, images=np.zeros((1, 8, 8, 3), np.uint8)), ValueError, "picture 1: expected one picture, got a"),
    (call(text=PICTURE, images=SMALL.astype(np.float32) + 7), ValueError, "expected floats from 0 to 1, got .* 7"),
    (call(text=PICTURE, images="no such file"), ValueError, "picture 1: Incorrect image source.* Got no such file"),
    (call(text="a</vision>"), ValueError, "as <vision><vpatch></vision> in the text, got </vision> alone"),
    (call(text="<vision></vision>"), ValueError, "in the text, got <vision> alone"),
    (call(text="<vision> a"), ValueError, "in the text, got <vision> alone"),
    (call(text=f"{PICTURE}<vpatch>", images=SMALL), ValueError, "in the text, got <vpatch> alone"),
    (call(text="<Prompt99>"), ValueError, r"the student has \(<Prompt0> to <Prompt2>, \[SEG\]\), got <Prompt99>"),
    (call(text="It is [SEG0]."), ValueError, r"expected special tokens that the student has .*, got \[SEG0\]"),
    (call(text="<region1>"), ValueError, "text 0: <region1>: expected one of 0 visual prompts, got number 1"),
    (
        call(text=QUESTION.replace("1", "2"), images=SMALL, visual_prompts=[{"point": (1, 1)}]),
        ValueError,
        "<region2>: expected one of 1 visual prompts, got number 2",
    ),
    (
        call(text=QUESTION, images=SMALL, visual_prompts=[{"point": (1, 1)}] * 4),
        ValueError,
        "text 0: visual prompts: expected at most 3, as many as the student has tokens, got 4",
    ),
    (
        call(text=QUESTION, images=SMALL, visual_prompts={"point": (1, 1)}),
        TypeError,
        "text 0: visual prompts: expected a list of regions, got one dict; put it in a list",
    ),
    (
        call(text=QUESTION, images=SMALL, visual_prompts=np.ones((8, 8), np.bool_)),
        TypeError,
        "visual prompts: expected a list of regions, got one ndarray",
    ),
    (
        call(text=[QUESTION], images=[SMALL], visual_prompts=[VisualPrompt(kind=PromptKind.BOX)]),
        TypeError,
        "text 0: visual prompts: expected a list of regions, got one VisualPrompt",
    ),
    (call(text=QUESTION, images=SMALL, visual_prompts=[7]), TypeError, "visual prompt 1: region: expected a mask"),
    (call(text=QUESTION, images=SMALL, visual_prompts=[(1, 2, 3, 4)]), TypeError, "visual prompt 1: region: .*ambig"),
    (
        call(text=QUESTION, images=SMALL, visual_prompts=[np.zeros((8, 8), np.bool_)]),
        ValueError,
        "text 0: visual prompt 1: mask: expected at least one pixel that is not 0",
    ),
    (
        call(text=QUESTION, images=SMALL, visual_prompts=[{"point": (1, 1)}, np.ones((9, 8), np.bool_)]),
        ValueError,
        r"visual prompt 2: mask: expected the picture's size, \(height, width\) = \(8, 8\), got",
    ),
    (
        call(text=QUESTION, images=SMALL, visual_prompts=[{"point": (8, 1)}]),
        ValueError,
        r"visual prompt 1: point: expected points inside the picture of 8 x 8 px \(width x height\), got \(8",
    ),
    (
        call(text=QUESTION, images=SMALL, visual_prompts=[{"point": (1, 1), "image": 1}]),
        ValueError,
        "visual prompt 1: expected one of 1 pictures, got number 1",
    ),
    (
        call(text=QUESTION, images=SMALL, visual_prompts=[{"point": (1, 1), "image": True}]),
        ValueError,
        "visual prompt 1: expected one of 1 pictures, got number True",
    ),
    (
        call(text="<Prompt0>", visual_prompts=[{"point": (1, 1)}]),
        ValueError,
        "expected one of 0 pictures, got number 0",
    ),
    (call(text="a", max_length=0), ValueError, "max_length: expected at least 1, got 0"),
    (call(text="a", return_tensors="np"), ValueError, "return_tensors: expected 'pt', got 'np'"),
    (call(text="a", padding="max_length"), ValueError, "padding: expected none of padding='max_length'; this proce"),
    (call(text="a", do_resize=False), ValueError, "do_resize: expected none of do_resize=False; this processor always"),
    (call(text="a", videos=[SMALL]), ValueError, "videos: expected none of videos="),
]


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(("given", "kind", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_what_is_refused(
    hf_processor: PixelSailProcessor, given: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        hf_processor(**given)


def test_files_that_are_no_pictures(hf_processor: PixelSailProcessor, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UnidentifiedImageError, match=r"text\.png"):
        hf_processor(images=tmp_path / "text.png", text=PICTURE)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        hf_processor(images=tmp_path / "none.png", text=PICTURE)


def test_options_that_ask_for_what_is_done_anyway(hf_processor: PixelSailProcessor) -> None:
    expected = hf_processor(text="hello")
    options = {"padding": True, "padding_side": "left", "return_attention_mask": True, "videos": None}
    found = hf_processor(text="hello", return_tensors=None, add_special_tokens=False, **options)
    assert all(found[name].equal(tensor) for name, tensor in expected.items())


# Masks


def test_masks_at_the_pictures_size(hf_processor: PixelSailProcessor) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 4, 6, generator=generator), torch.zeros(0, 1, 1), -torch.ones(1, 3, 3)]
    (masks, certainties), *others = hf_processor.post_process_masks(logits, [(21, 30), (9, 8), (5, 7)])
    assert masks.dtype == np.bool_
    assert masks.shape == (2, 21, 30)
    resized = functional.interpolate(logits[0][None], size=(21, 30), mode="bilinear")[0]
    np.testing.assert_array_equal(masks, (resized > 0).numpy())
    for mask, certainty in zip(resized, certainties, strict=True):
        assert certainty == pytest.approx(mask[mask > 0].sigmoid().mean().item(), abs=1e-6)
    assert others[0][0].shape == (0, 9, 8)
    assert others[0][1] == []
    assert others[1][0].shape == (1, 5, 7)
    assert not others[1][0].any()
    assert others[1][1] == [0.0]


def test_masks_of_half_precision(hf_processor: PixelSailProcessor) -> None:
    logits = torch.full((1, 2, 2), 0.5, dtype=torch.bfloat16)
    masks, certainties = hf_processor.post_process_masks([logits], [(4, 4)])[0]
    assert masks.all()
    assert certainties == [pytest.approx(0.5**0 / (1 + np.exp(-0.5)), abs=1e-6)]


def test_sizes_are_as_many_as_rows(hf_processor: PixelSailProcessor) -> None:
    with pytest.raises(ValueError, match="sizes_px: expected 1, one per row of masks, got 2"):
        hf_processor.post_process_masks([torch.zeros(0, 1, 1)], [(4, 4), (5, 5)])


def test_masks_of_a_generation_have_the_pictures_sizes(
    hf_processor: PixelSailProcessor, scripted: Any, tokenizer: StudentTokenizer, picture: MakePicture
) -> None:
    from model.huggingface import PixelSailForConditionalGeneration

    student: PixelSail = scripted([[tokenizer.seg, tokenizer.end_of_text]] * 2)
    sizes = [(20, 30), (100, 50)]
    given = chat(hf_processor, [[user("what", picture(*size))] for size in sizes])
    output = PixelSailForConditionalGeneration.of(student, tokenizer).generate(
        **given, max_new_tokens=4, return_dict_in_generate=True
    )
    found = hf_processor.post_process_masks(output.masks, sizes)
    assert [masks.shape for masks, _ in found] == [(1, *size) for size in sizes]
