"""What encodings take and cost: generated features of two spectra, features of trained networks, padding."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from storage.calibration import TIERS, CalibrationSample
from storage.codecs import Codec, codec_of
from storage.feature_plan import ArrayPlan, class_cells
from storage.keys import Json
from storage.klt import KltCodec
from storage.shards import RowStatus, ShardRow, encode_row
from teachers.registry import parse_teacher
from tests.benchmarks.feature_workloads import FeatureMaker, calibrated, photograph_grids
from tests.benchmarks.measuring import Figures, Options, judged, machine

__all__ = ["bits_per_value", "padding"]

TARGETS = {"klt": 3.9, "klt-20db": 2.2}
PADDING_TARGET = 0.03
_CODECS = ("raw16", "int8", "klt", "klt-20db")
_TRAINED: tuple[dict[str, object], ...] = (
    {"kind": "sam2", "checkpoint": "tiny-sam2", "image_size_px": 512},
    {"kind": "mask2former", "checkpoint": "tiny-mask2former", "short_side_px": 256, "long_side_px": 448},
)


def bits_per_value(options: Options) -> Figures:
    """Stored bits per value and signal-to-noise ratio of every encoding."""
    count = 1 if options.tiny else 8
    figures: Figures = {"machine": machine(options, 1)}
    for spectrum, power in (("k^-1.5", 1.5), ("flat", 0.0)):
        maker = FeatureMaker(power=power)
        images = [maker.features(number) for number in range(count)]
        figures[f"generated, spectrum {spectrum}"] = {
            name: _measured(calibrated(name, power), images, spectrum == "k^-1.5") for name in _CODECS
        }
    figures["entropy of a one-step scalar quantiser, spectrum k^-1.5"] = {"30 dB": 3.58, "20 dB": 1.94}
    figures["a channel with values 200 sigma out"] = _heavy_tail()
    figures |= _of_trained_teachers(options)
    return figures


def _measured(codec: Codec, images: Sequence[npt.NDArray[np.float32]], judge: bool) -> dict[str, Json]:
    num_bytes, errors = 0, list[float]()
    for features in images:
        channels, height, width = features.shape
        array = ArrayPlan("l", 1, channels, height * width, 1)
        stored = codec.encode(features)
        encoded = encode_row(ShardRow("", height, width, RowStatus.OK, "", stored), array, codec)
        numbers = codec.num_scales(channels) + codec.num_offsets(channels) + 3 * stored.outlier_cell.size
        num_bytes += len(encoded.chunk) + 4 + 4 * numbers
        restored = stored.dequantise()
        if codec.encoding == "raw16":
            np.testing.assert_array_equal(restored, features.astype(np.float16).astype(np.float32))
        errors.append(_relative_error(features, restored))
    bits = 8 * num_bytes / sum(features.size for features in images)
    found: dict[str, Json] = {"snr_db": round(-10 * float(np.log10(np.mean(errors))), 2)}
    name = {snr.snr_db: tier for tier, snr in TIERS.items()}.get(_tier_db(codec))
    ratio: dict[str, Json] = {"of": "bits per value", "value": round(bits, 3)}
    found["bits"] = judged(ratio, at_most=TARGETS[name]) if judge and name in TARGETS else ratio["value"]
    return found


def _tier_db(codec: Codec) -> float:
    about = codec.facts.get("tier_db") if isinstance(codec, KltCodec) else None
    return float(about) if isinstance(about, int | float) else 0.0


def _relative_error(features: npt.NDArray[np.float32], restored: npt.NDArray[np.float32]) -> float:
    flat = features.reshape(len(features), -1)
    return float(np.square(features - restored, dtype=np.float64).mean() / flat.var(axis=1, dtype=np.float64).mean())


def _heavy_tail() -> dict[str, Json]:
    """Signal-to-noise ratio of one channel, its far values left out of the signal, with and without them."""
    features = FeatureMaker().features(0)
    spiked = features.copy()
    channel, where = 7, np.s_[::17, ::13]
    spiked[channel][where] = 200 * features[channel].std()
    usual = np.ones(features.shape[1:], np.bool_)
    usual[where] = False
    found: dict[str, Json] = {}
    for name in _CODECS:
        codec = calibrated(name)
        clean, far = codec.encode(features).dequantise(), codec.encode(spiked).dequantise()
        signal = features[channel][usual].var()
        errors = [np.square(values[channel][usual] - features[channel][usual]).mean() for values in (clean, far)]
        before, after = (-10 * float(np.log10(error / signal)) for error in errors)
        found[name] = {
            "snr_db_without": round(before, 2),
            "snr_db_with": round(after, 2),
            "of_far_values_db": round(
                -10 * float(np.log10(np.square(far[channel][~usual] / spiked[channel][~usual] - 1).mean() + 1e-12)), 1
            ),
            "loss_db": judged({"of": "dB lost", "value": round(before - after, 2)}, at_most=0.5),
        }
    return found


def _of_trained_teachers(options: Options) -> Figures:
    """Features of the packaged trained teachers on photographs; calibrated on one half, measured on the other."""
    pictures = _photographs()
    if not pictures:
        return {"features of trained teachers": "not measured: set SAILLOFT_SHARED to the folder with data/photos"}
    figures: Figures = {}
    for fields in _TRAINED[: 1 if options.tiny else None]:
        teacher = parse_teacher(fields).build()
        few = pictures[: 4 if options.tiny else None]
        features = [teacher.forward(teacher.preprocess(picture)[None])[0].numpy() for picture in few]
        fitted, measured = features[1::2], features[::2]
        codecs = {name: _fitted(name, fitted) for name in _CODECS}
        figures[f"trained teacher {fields['checkpoint']} on {len(measured)} photographs"] = {
            "channels": teacher.num_channels,
            **{name: _measured(codec, measured, judge=False) for name, codec in codecs.items()},
        }
    return figures


def _fitted(name: str, features: Iterable[npt.NDArray[np.float32]]) -> Codec:
    if name not in TIERS:
        return codec_of(name)
    sample = CalibrationSample()
    for values in features:
        sample.add(values)
    return KltCodec(sample.fit(TIERS[name]))


def _photographs() -> list[Image.Image]:
    folder = os.environ.get("SAILLOFT_SHARED")
    paths = [] if folder is None else sorted(Path(folder, "data", "photos").glob("*.*"))
    paths += [] if folder is None else sorted(Path(folder, "data", "coco2017", "val2017").glob("*.jpg"))
    return [Image.open(path).convert("RGB") for path in paths]


def padding(options: Options) -> Figures:
    """Share of the stored bytes that padding to size classes takes, by the sizes of photographs."""
    rows = photograph_grids(4 if options.tiny else 60)
    maker = FeatureMaker()
    figures: Figures = {"machine": machine(options, 1), "images": len(rows)}
    for name in ("klt", "klt-20db"):
        codec = calibrated(name)
        padded = exact = 0
        for number, row in enumerate(rows):
            stored = codec.encode(maker.features(number, row.height, row.width))
            shard_row = ShardRow(row.image_id, row.height, row.width, RowStatus.OK, "", stored)
            cells = row.height * row.width
            padded += _chunk_bytes(shard_row, class_cells(cells), codec)
            exact += _chunk_bytes(shard_row, cells, codec)
        figures[name] = judged(
            {"of": "padding / stored bytes", "value": round(padded / exact - 1, 5)}, at_most=PADDING_TARGET
        )
    return figures


def _chunk_bytes(row: ShardRow, cells: int, codec: Codec) -> int:
    return len(encode_row(row, ArrayPlan("l", 1, 256, cells, 1), codec).chunk)
