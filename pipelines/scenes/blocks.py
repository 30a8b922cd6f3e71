"""Blocks of pictures: the unit of work, and what is written of each before the source files are.

A block writes the picture and the panoptic map of each of its scenes, then its facts, a JSON file
with everything that the source files say about them. Facts that are present mean that the block is
finished. All writes are create-only, and all bytes follow from the configuration alone.
"""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from pipelines.scenes.chance import Chance
from pipelines.scenes.config import ScenesConfig
from pipelines.scenes.draw import DescribedScene, describe_scene, paint_scene
from pipelines.scenes.grammar import POSITION_KINDS, Expression, long_expression, single_expressions
from pipelines.scenes.meaning import SceneMeaning
from pipelines.scenes.png import encode_png
from pipelines.scenes.regions import choice_question, describe_region, visual_text
from storage.manifest import FileEntry
from storage.masks import encode_mask
from storage.objects import Objects

__all__ = [
    "Block",
    "ObjectFacts",
    "PictureFacts",
    "first_image_id",
    "image_key",
    "image_name",
    "panoptic_key",
    "plan_blocks",
    "read_facts",
    "segment_id",
    "write_block",
]

_NUM_IMAGES = 100
_NUM_WRITERS = 4
_FIRST_ID = {"train": 10_000_000, "val": 20_000_000, "testA": 30_000_000, "testB": 40_000_000}


class ObjectFacts(TypedDict):
    """An object: its words, box `[x0, y0, width, height]` and area in pixels, compressed RLE counts."""

    shape: str
    colour: str
    texture: str
    size: str
    bbox: list[int]
    area: int
    counts: str


class ExpressionFacts(TypedDict):
    """An expression, the numbers of its targets, its kind."""

    text: str
    targets: list[int]
    kind: str


class QuestionFacts(TypedDict):
    """A multiple-choice question on one object."""

    object: int
    question: str
    answer: str


class VisualTextFacts(TypedDict):
    """A visual-text question; `tags` are object numbers."""

    question: str
    answer: str
    tags: dict[str, int]


class PictureFacts(TypedDict):
    """Everything that the source files say about one picture; objects go from back to front."""

    image_id: int
    split: str
    objects: list[ObjectFacts]
    expressions: list[ExpressionFacts]
    plus_expressions: list[ExpressionFacts]
    long_expressions: list[ExpressionFacts]
    descriptions: list[str]
    questions: list[QuestionFacts]
    visual_text: list[VisualTextFacts]


class BlockFacts(TypedDict):
    """The facts of a block, and size and SHA-256 of the files it wrote, by key."""

    pictures: list[PictureFacts]
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Block:
    """Pictures `start` to `stop - 1` of a split."""

    split: str
    start: int
    stop: int

    @property
    def key(self) -> str:
        """Key of the block's facts."""
        return f"facts/{self.split}_{self.start:06d}.json"


def plan_blocks(config: ScenesConfig) -> list[Block]:
    """The blocks of a configuration: at most 100 pictures each."""
    return [
        Block(split, start, min(start + _NUM_IMAGES, count))
        for split, count in config.splits.counts()
        for start in range(0, count, _NUM_IMAGES)
    ]


def first_image_id(split: str) -> int:
    """Id of picture 0 of a split; ids lie far above those of COCO and never meet."""
    return _FIRST_ID[split]


def image_name(image_id: int) -> str:
    """File name of a picture, after COCO's pattern."""
    return f"COCO_train2014_{image_id:012d}.png"


def image_key(image_id: int) -> str:
    """Key of a picture; as in a REFER folder, those of all splits lie together."""
    return f"images/train2014/{image_name(image_id)}"


def panoptic_key(split: str, image_id: int) -> str:
    """Key of the panoptic map of a picture."""
    return f"panoptic/panoptic_{split}/{image_id:012d}.png"


def segment_id(number: int) -> int:
    """Panoptic id of an object, by its number; the background has that of number -1.

    Consecutive multiples of a number whose three bytes differ, so that a reader which mixes up
    the channels can't go unnoticed.
    """
    return (number + 2) * 0x0B2517


def read_facts(output: Objects, block: Block) -> tuple[BlockFacts, bytes]:
    """The facts of a finished block, and the bytes of their file."""
    data = output.read(block.key)
    return cast("BlockFacts", json.loads(data)), data


def write_block(config: ScenesConfig, output: Objects, block: Block) -> int:
    """Draws and writes a block; pictures that are present aren't painted again.

    Args:
        config: what scenes are made of.
        output: where everything goes.
        block: which pictures.

    Returns:
        Number of pictures that were painted.
    """
    pictures: list[PictureFacts] = []
    writes: list[Future[FileEntry]] = []
    present = _present(output, block)
    with ThreadPoolExecutor(_NUM_WRITERS) as pool:
        for index in range(block.start, block.stop):
            described = describe_scene(config, block.split, index)
            image_id = first_image_id(block.split) + index
            key, map_key = image_key(image_id), panoptic_key(block.split, image_id)
            data = None if key in present else encode_png(paint_scene(config, described.scene))
            writes.append(pool.submit(_stored, output, key, data))
            writes.append(pool.submit(_stored, output, map_key, encode_png(_panoptic_map(described.masks))))
            pictures.append(_facts(config, described, image_id))
        entries = [write.result() for write in writes]
    files = {entry.path: (entry.size_bytes, entry.sha256) for entry in entries}
    output.create(block.key, _json({"pictures": pictures, "files": files}))
    return block.stop - block.start - len(present)


def _stored(output: Objects, key: str, data: bytes | None) -> FileEntry:
    """Writes a file, if there is something to write; the entry is of what then stands there."""
    if data is None or not output.create(key, data):
        data = output.read(key)
    return FileEntry.of(key, data)


def _json(facts: BlockFacts) -> bytes:
    return json.dumps(facts, separators=(",", ":"), sort_keys=True).encode()


def _present(output: Objects, block: Block) -> set[str]:
    """Keys of the block's pictures that an interrupted run left, if there was one."""
    keys = [image_key(first_image_id(block.split) + index) for index in range(block.start, block.stop)]
    # Pictures are written nearly in order: without the first there are hardly any, and to paint
    # those again costs little.
    return {key for key in keys if output.exists(key)} if output.exists(keys[0]) else set()


def _panoptic_map(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Segment ids as RGB: id = R + 256 G + 65536 B."""
    ids = np.full(masks.shape[1:], segment_id(-1), dtype="<u4")
    for number, mask in enumerate(masks):
        ids[mask] = segment_id(number)
    return np.ascontiguousarray(ids.view(np.uint8).reshape(*ids.shape, 4)[..., :3])


def _facts(config: ScenesConfig, described: DescribedScene, image_id: int) -> PictureFacts:
    scene, meaning = described.scene, SceneMeaning(described.scene)
    chance = Chance(config.seed, scene.split, scene.index, "regions")
    everything = range(len(scene.objects))
    long = [expression for number in everything if (expression := long_expression(meaning, chance, number))]
    weights = {kind: weight for kind, weight in config.weights.as_dict().items() if kind not in POSITION_KINDS}
    plus = single_expressions(weights, config.expressions_per_image, meaning, chance)
    questions = [choice_question(meaning, chance, number) for number in everything]
    return {
        "image_id": image_id,
        "split": scene.split,
        "objects": [_object_facts(described, number) for number in everything],
        "expressions": [_expression_facts(expression) for expression in described.expressions],
        "plus_expressions": [_expression_facts(expression) for expression in plus],
        "long_expressions": [_expression_facts(expression) for expression in long],
        "descriptions": [describe_region(meaning, chance, number) for number in everything],
        "questions": [{"object": q.number, "question": q.question, "answer": q.answer} for q in questions],
        "visual_text": _visual_texts(config, meaning, chance),
    }


def _expression_facts(expression: Expression) -> ExpressionFacts:
    return {"text": expression.text, "targets": list(expression.targets), "kind": expression.kind}


def _object_facts(described: DescribedScene, number: int) -> ObjectFacts:
    item, mask = described.scene.objects[number], described.masks[number]
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    left, top = int(columns[0]), int(rows[0])
    return {
        "shape": item.shape,
        "colour": item.colour,
        "texture": item.texture,
        "size": item.size,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(np.count_nonzero(mask)),
        "counts": encode_mask(mask).counts.decode("ascii"),
    }


def _visual_texts(config: ScenesConfig, meaning: SceneMeaning, chance: Chance) -> list[VisualTextFacts]:
    found: list[VisualTextFacts] = []
    for _ in range(6 * config.visual_text_per_image):
        if len(found) == config.visual_text_per_image:
            break
        item = visual_text(meaning, chance)
        if item is None:
            continue
        facts: VisualTextFacts = {"question": item.question, "answer": item.answer, "tags": item.tags}
        if facts not in found:
            found.append(facts)
    return found
