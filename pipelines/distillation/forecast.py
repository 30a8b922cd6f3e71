"""What teaching will take before any of it runs: bytes, requests, hours, price. Pure arithmetic.

Seconds per image come from a probe on the cluster or from the recipe; without either, hours and price
are unknown, and said to be.
"""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, field
from typing import cast

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.costs import CostsConfig
from pipelines.distillation.plan import TeachPlan
from storage.keys import Json

__all__ = [
    "EXPECTED_BITS_PER_VALUE",
    "ImageCounts",
    "PhaseSeconds",
    "PlanTotals",
    "Price",
    "TeachForecast",
    "forecast_teaching",
    "price_of",
]

EXPECTED_BITS_PER_VALUE = {"raw16": 16.0, "int8": 8.0, "klt": 3.9, "klt-20db": 2.2}
"""Stored bits per value: exact for the first two, measured on a k^-1.5 spectrum for the others
(`python -m tests.benchmarks features`); features of trained teachers take less."""

_REQUESTS_PER_PART = 8
"""Table of rows, manifest, snapshot, statement and table of rejects; listings of index and shards before."""
_LEASE_REQUESTS_PER_S = 1 / 10
"""A lease's heartbeat."""
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """The images of a corpus as a store sees them."""

    wanted: int
    """Of the splits that the recipe names."""
    present: int
    rejected: int
    """Tried before, without success; not tried again."""
    missing: int

    def __add__(self, other: ImageCounts) -> ImageCounts:
        return ImageCounts(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class PlanTotals:
    """What plans come to, one for each part."""

    num_parts: int = 0
    num_images: int = 0
    num_shards: int = 0
    num_arrays: int = 0
    num_cells: int = 0
    """Of all images together, with the padding of their size classes."""

    @classmethod
    def of(cls, plan: TeachPlan) -> PlanTotals:
        """Of one part."""
        arrays = plan.part.arrays
        return cls(
            num_parts=1,
            num_images=plan.part.num_images,
            num_shards=sum(array.num_shards for array in arrays),
            num_arrays=len(arrays),
            num_cells=sum(array.num_rows * array.cells for array in arrays),
        )

    def __add__(self, other: PlanTotals) -> PlanTotals:
        return PlanTotals(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def scaled(self, num_images: int) -> PlanTotals:
        """What so many images come to if they are like these."""
        return PlanTotals(*(-(-number * num_images // max(1, self.num_images)) for number in astuple(self)))


@dataclass(frozen=True, slots=True)
class PhaseSeconds:
    """Seconds per image and process, by phase; None: unknown."""

    source: str
    """Where they come from, for people."""
    read: float | None = None
    decode: float | None = None
    preprocess: float | None = None
    forward: float | None = None
    encode: float | None = None
    write: float | None = None
    start: float | None = None
    """Of a teacher, with its weights; once per process, not per image."""

    @property
    def feed(self) -> float:
        """What a decoding process takes per image, as far as it is known."""
        return (self.read or 0.0) + (self.decode or 0.0) + (self.preprocess or 0.0)

    def at_teacher(self, on_accelerator: bool) -> float | None:
        """What a teacher's process takes per image, encoding and writing beside its next forward pass."""
        if self.forward is None:
            return None
        beside = (self.encode or 0.0) + (self.write or 0.0)
        return max(self.forward, beside) if on_accelerator else max(self.forward + (self.encode or 0.0), beside)


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars by item; None: not priced."""

    accelerators: float | None
    cpus: float | None
    requests: float | None
    storage_per_month: float | None

    @property
    def total(self) -> float | None:
        """What the run costs, storage not counted; None if an item that it uses has no price."""
        items = (self.accelerators, self.cpus, self.requests)
        return None if any(item is None for item in items) else sum(item or 0.0 for item in items)


@dataclass(frozen=True, slots=True)
class TeachForecast:
    """What one teacher's stage would do."""

    teacher: str
    images: ImageCounts
    num_shards: int
    num_arrays: int
    size_bytes: int
    """To be written, by the codec's expected bits per value."""
    num_puts: int
    """Writing and listing requests."""
    num_gets: int
    """Reading requests, at most: a picture is counted as one, though pictures of one row group come together."""
    num_actors: int
    num_decoders: int | None
    """Decoding tasks side by side; None: threads of the teachers' processes."""
    seconds: PhaseSeconds
    wall_s: float | None
    """None: unknown, since nothing says how long a forward pass takes."""
    accelerator_hours: float | None
    cpu_hours: float | None
    price: Price
    bound_by: str | None = field(default=None)
    """`teacher` or `feed`: whichever the other waits for."""

    def to_json(self) -> dict[str, Json]:
        """The forecast as plain data."""
        return {**cast("dict[str, Json]", asdict(self)), "price": {**asdict(self.price), "total": self.price.total}}


def forecast_teaching(
    teacher: str,
    images: ImageCounts,
    plans: PlanTotals,
    num_channels: int,
    features: FeaturesConfig,
    costs: CostsConfig,
    measured: PhaseSeconds | None = None,
    num_cpus: float | None = None,
    bits_per_value: float | None = None,
) -> TeachForecast:
    """What it takes to compute what is missing.

    Args:
        teacher: its kind.
        images: counts.
        plans: of the missing images.
        num_channels: of the teacher's features.
        features: codec and pool.
        costs: prices, and seconds where nothing was measured.
        measured: seconds of a probe.
        num_cpus: of the cluster, as far as it is known.
        bits_per_value: as measured; None: what is expected of the codec.
    """
    num_shards = plans.num_shards
    seconds = measured or _from_recipe(teacher, costs)
    num_actors = min(features.num_actors, num_shards)
    num_decoders = _num_decoders(features, num_actors, num_cpus)
    wall_s, bound_by = _wall_s(images.missing, seconds, features, num_actors, num_decoders)
    hours = None if wall_s is None else wall_s / _HOUR_S
    accelerator_hours = None if hours is None else hours * num_actors * features.num_gpus_per_actor
    cpu_hours = None if hours is None else hours * num_actors * features.num_cpus_per_actor
    if cpu_hours is not None and num_decoders is not None:
        cpu_hours += images.missing * seconds.feed * features.num_cpus_per_decoder / _HOUR_S
    # Each shard is one put, and its tail is read once by its writer and once by who publishes.
    beats = int(_LEASE_REQUESTS_PER_S * (wall_s or 0.0)) if num_shards else 0
    parts = _REQUESTS_PER_PART * plans.num_parts + beats
    num_puts = num_shards + plans.num_arrays + parts
    num_gets = images.missing + 2 * num_shards + parts
    bits = EXPECTED_BITS_PER_VALUE[features.codec] if bits_per_value is None else bits_per_value
    size_bytes = round(plans.num_cells * num_channels * bits / 8)
    return TeachForecast(
        teacher=teacher,
        images=images,
        num_shards=num_shards,
        num_arrays=plans.num_arrays,
        size_bytes=size_bytes,
        num_puts=num_puts,
        num_gets=num_gets,
        num_actors=num_actors,
        num_decoders=num_decoders,
        seconds=seconds,
        wall_s=wall_s,
        accelerator_hours=accelerator_hours,
        cpu_hours=cpu_hours,
        price=price_of(costs, accelerator_hours, cpu_hours, num_puts, num_gets, size_bytes),
        bound_by=bound_by,
    )


def _from_recipe(teacher: str, costs: CostsConfig) -> PhaseSeconds:
    forward = costs.seconds_per_image.get(teacher)
    return PhaseSeconds("nothing says" if forward is None else "costs.seconds_per_image", forward=forward)


def _num_decoders(features: FeaturesConfig, num_actors: int, num_cpus: float | None) -> int | None:
    if features.num_cpus_per_decoder == 0:
        return None
    wanted = num_actors * features.num_batches_ahead
    if num_cpus is None:
        return wanted
    free = num_cpus - num_actors * features.num_cpus_per_actor
    return max(1, min(wanted, int(free / features.num_cpus_per_decoder)))


def _wall_s(
    num_images: int, seconds: PhaseSeconds, features: FeaturesConfig, num_actors: int, num_decoders: int | None
) -> tuple[float | None, str | None]:
    if not num_images:
        return 0.0, None
    per_image = seconds.at_teacher(features.num_gpus_per_actor > 0)
    if per_image is None:
        return None, None
    feeders = num_actors * features.num_batches_ahead if num_decoders is None else num_decoders
    at_teacher, at_feed = per_image / num_actors, seconds.feed / feeders
    bound_by = "teacher" if at_teacher >= at_feed else "feed"
    return (seconds.start or 0.0) + num_images * max(at_teacher, at_feed), bound_by


def price_of(
    costs: CostsConfig,
    accelerator_hours: float | None,
    cpu_hours: float | None,
    num_puts: int,
    num_gets: int,
    size_bytes: int = 0,
) -> Price:
    """What is used, or will be, by the prices of a recipe."""
    puts = _times(costs.usd_per_million_puts, num_puts / 1e6)
    gets = _times(costs.usd_per_million_gets, num_gets / 1e6)
    return Price(
        accelerators=_times(costs.usd_per_accelerator_hour, accelerator_hours),
        cpus=_times(costs.usd_per_cpu_hour, cpu_hours),
        requests=None if puts is None or gets is None else puts + gets,
        storage_per_month=_times(costs.usd_per_tb_month, size_bytes / 1e12),
    )


def _times(price: float | None, amount: float | None) -> float | None:
    if amount == 0:
        return 0.0
    return None if price is None or amount is None else price * amount
