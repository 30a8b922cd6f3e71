"""What the command line says and does about corpora."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from jobs.new_folder import make_folder, target_folder
from jobs.told import Told
from pipelines.curation.exports.chosen import Chosen
from pipelines.curation.exports.coco import export_coco
from pipelines.curation.exports.fiftyone import export_fiftyone
from pipelines.curation.exports.hugging_face import export_hugging_face
from pipelines.progress import Progress
from pipelines.text_table import table
from storage.corpus import Corpus
from storage.keys import Json
from storage.manifest import Manifest

__all__ = ["corpus_json", "describe_corpus", "export_corpus", "since_parent"]

_MIB = 2**20
_EXPORTS = {"coco": export_coco, "fiftyone": export_fiftyone, "hf": export_hugging_face}


def describe_corpus(url: str) -> str:
    """Counts of a corpus, as its manifest states them, in lines.

    Args:
        url: prefix of the corpus.

    Raises:
        ObjectNotFound: no corpus there.
    """
    corpus = Corpus.open(url)
    manifest, facts = corpus.manifest, corpus.manifest.facts
    size_bytes = sum(entry.size_bytes for entry in manifest.files)
    lines = [
        f"{corpus.objects.url}: {_rows(manifest, 'samples')} samples on {_rows(manifest, 'images')} images, "
        f"{_rows(manifest, 'rejects')} records rejected, {size_bytes / _MIB:.1f} MiB in {len(manifest.files)} files",
        f"  key {manifest.key}",
    ]
    for parent in cast("Sequence[str]", facts.get("parents", ())):
        lines.append(f"  parent {parent}")
    if (change := since_parent(manifest)) is not None:
        lines.append(f"  {change}")
    if facts.get("leakage_gate") == "off":
        lines.append("  the leakage gate was off: training samples may lie on evaluation images")
    for name, splits in sorted(cast("Mapping[str, Mapping[str, str]]", facts.get("relabelled_splits", {})).items()):
        lines.append(f"  {name}: " + ", ".join(f"{old} became {new}" for old, new in sorted(splits.items())))
    samples = cast("Mapping[str, Mapping[str, Mapping[str, int]]]", facts.get("samples", {}))
    rows = [
        (family, task, split, number)
        for family, tasks in samples.items()
        for task, splits in tasks.items()
        for split, number in splits.items()
    ]
    lines += table(("family", "task", "split", "samples"), rows)
    kept = _counts(facts, "samples_by_source")
    sources = [
        (name, number, kept.get(name, 0), number - kept.get(name, 0))
        for name, number in sorted(_counts(facts, "records_in").items())
    ]
    lines += table(("source file", "records", "samples", "rejects"), sources)
    reasons = sorted(_counts(facts, "rejects_by_reason").items(), key=lambda item: (-item[1], item[0]))
    lines += table(("reject", "records"), reasons)
    return "\n".join(lines)


def since_parent(manifest: Manifest) -> str | None:
    """How a corpus differs from its parent, in one line; None: it has none."""
    counts = _counts(manifest.facts, "since_parent")
    if not counts:
        return None
    return (
        f"since the parent: {counts['parts_kept']} parts kept, {counts['parts_read']} read, "
        f"{counts['parts_gone_or_replaced']} gone or replaced; {counts['samples_added']} samples added, "
        f"{counts['samples_taken_out']} taken out"
    )


def corpus_json(url: str) -> str:
    """The same as one JSON object: url, key, numbers, and all facts of the manifest.

    Args:
        url: prefix of the corpus.

    Raises:
        ObjectNotFound: no corpus there.
    """
    corpus = Corpus.open(url)
    manifest = corpus.manifest
    shown: dict[str, Json] = {
        "url": corpus.objects.url,
        "key": manifest.key,
        "num_files": len(manifest.files),
        "size_bytes": sum(entry.size_bytes for entry in manifest.files),
        **{f"num_{folder}": _rows(manifest, folder) for folder in ("samples", "images", "rejects")},
        **manifest.facts,
    }
    return json.dumps(shown, indent=2, sort_keys=True)


def export_corpus(
    url: str,
    form: Literal["coco", "fiftyone", "hf"],
    output: Path,
    splits: Collection[str] | None,
    families: Collection[str] | None,
    progress: Progress,
    dry_run: bool = False,
) -> Told:
    """Exports a corpus, or some of it, into a new folder.

    Args:
        url: prefix of the corpus.
        form: layout.
        output: folder to make.
        splits: of the samples; None or empty: all.
        families: of the samples; None or empty: all.
        progress: told of shards.
        dry_run: only count.

    Returns:
        What was written.

    Raises:
        UsageError: the folder holds something, or the corpus has no such split or family.
        ObjectNotFound: no corpus there.
        InfrastructureError: writing failed.
    """
    target = target_folder(output)
    chosen = Chosen(Corpus.open(url), splits or None, families or None)
    if dry_run:
        counts = chosen.count(progress, without_image=form == "hf")
    else:
        with make_folder(target) as folder:
            counts = _EXPORTS[form](chosen, folder, progress)
    left_out = f"; {counts.without_image} samples without a picture left out" if counts.without_image else ""
    listed = ", ".join(sorted(counts.splits)) or "no split"
    would = "would hold " if dry_run else ""
    text = f"{target}: {would}{counts.samples} samples on {counts.images} images ({listed}){left_out}"
    data: dict[str, Json] = {
        "folder": str(target),
        "dry_run": dry_run,
        "format": form,
        "num_samples": counts.samples,
        "num_images": counts.images,
        "num_without_image": counts.without_image,
        "splits": sorted(counts.splits),
    }
    return Told(text, data)


def _rows(manifest: Manifest, folder: str) -> int:
    return sum(entry.rows or 0 for entry in manifest.files if entry.path.startswith(f"{folder}/"))


def _counts(facts: Mapping[str, Json], name: str) -> Mapping[str, int]:
    return cast("Mapping[str, int]", facts.get(name, {}))
