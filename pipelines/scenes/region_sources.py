"""The source files on regions that are pointed at: Osprey's two forms and PerBench's three files."""

from __future__ import annotations

from pipelines.scenes.blocks import ObjectFacts, PictureFacts, image_name
from pipelines.scenes.regions import ASK_COLOUR, ASK_SHAPE
from storage.keys import Json

__all__ = [
    "choice_questions",
    "descriptions_of_regions",
    "detailed_captions",
    "rle",
    "short_answers",
    "visual_texts",
]


def rle(item: ObjectFacts, size_px: int) -> dict[str, Json]:
    """An object's mask as compressed RLE with `counts` as a string."""
    return {"size": [size_px, size_px], "counts": item["counts"]}


def descriptions_of_regions(picture: PictureFacts, size_px: int) -> list[Json]:
    """Osprey's detail description, one record per picture: number i starts `<regionI>: `."""
    texts: list[Json] = [f"<region{place}>: {text}" for place, text in enumerate(picture["descriptions"], start=1)]
    return [{**_annotated(picture, size_px), "description": texts}]


def short_answers(picture: PictureFacts, size_px: int) -> list[Json]:
    """Osprey's short form: one conversation per region, of questions that are answered in one word."""
    annotated = _annotated(picture, size_px)
    records: list[Json] = []
    for place, item in enumerate(picture["objects"], start=1):
        asked = ((ASK_COLOUR, item["colour"]), (ASK_SHAPE, item["shape"]))
        messages: list[Json] = []
        for question, answer in asked:
            messages.append({"from": "human", "value": question.replace("<region1>", f"<region{place}>")})
            messages.append({"from": "gpt", "value": answer})
        records.append({**annotated, "conversations": messages})
    return records


def _annotated(picture: PictureFacts, size_px: int) -> dict[str, Json]:
    """A picture and its regions as Osprey lists them."""
    return {
        "file_name": image_name(picture["image_id"]),
        "height": size_px,
        "width": size_px,
        "annotation": [
            {"bbox": [float(side) for side in item["bbox"]], "segmentation": rle(item, size_px)}
            for item in picture["objects"]
        ],
    }


def detailed_captions(picture: PictureFacts, size_px: int) -> list[Json]:
    """PerBench's detailed captions: one record per picture."""
    annotations: list[Json] = [
        {"segmentation": rle(item, size_px), "caption": text}
        for item, text in zip(picture["objects"], picture["descriptions"], strict=True)
    ]
    return [{"image_name": image_name(picture["image_id"]), "object_annotations": annotations}]


def choice_questions(picture: PictureFacts, size_px: int) -> list[Json]:
    """PerBench's multiple choice: one record per picture; options stand in the question, one per line."""
    questions: list[Json] = [
        {
            "object": rle(picture["objects"][item["object"]], size_px),
            "question": item["question"],
            "answer": item["answer"],
        }
        for item in picture["questions"]
    ]
    return [{"image_name": image_name(picture["image_id"]), "mcqs": questions}]


def visual_texts(picture: PictureFacts, size_px: int) -> list[Json]:
    """PerBench's visual-text segmentation: one record per question, prompts tagged before what is asked for."""
    return [
        {
            "image_name": image_name(picture["image_id"]),
            "question": item["question"],
            "answer": item["answer"],
            "segmentations": {tag: rle(picture["objects"][number], size_px) for tag, number in item["tags"].items()},
        }
        for item in picture["visual_text"]
    ]
