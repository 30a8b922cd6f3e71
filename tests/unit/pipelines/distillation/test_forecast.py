from __future__ import annotations

import json

import pytest

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.costs import CostsConfig
from pipelines.distillation.forecast import ImageCounts, PhaseSeconds, PlanTotals, TeachForecast, forecast_teaching
from pipelines.distillation.plan import plan_teaching
from storage.codecs import codec_of
from teachers.sam2 import Sam2TeacherConfig

TEACHER = Sam2TeacherConfig(image_size_px=1024)
NUM_CHANNELS = 256
PRICES = CostsConfig(
    usd_per_accelerator_hour=2.0,
    usd_per_cpu_hour=0.05,
    usd_per_tb_month=20.0,
    usd_per_million_puts=5.0,
    usd_per_million_gets=0.4,
)


def _forecast(
    num_missing: int = 1000,
    features: FeaturesConfig | None = None,
    costs: CostsConfig = PRICES,
    measured: PhaseSeconds | None = None,
    num_cpus: float | None = None,
) -> TeachForecast:
    features = features or FeaturesConfig(codec="raw16", num_gpus_per_actor=1, num_actors=4)
    images = [(f"{number:064x}", 480, 640) for number in range(num_missing)]
    plan = plan_teaching(images, features, TEACHER, "patches", NUM_CHANNELS, codec_of("raw16"), "s")
    plans = PlanTotals.of(plan) if images else PlanTotals()
    counts = ImageCounts(wanted=10_000, present=10_000 - num_missing - 7, rejected=7, missing=num_missing)
    return forecast_teaching("sam2", counts, plans, NUM_CHANNELS, features, costs, measured, num_cpus)


def test_bytes_and_requests_follow_from_the_plan() -> None:
    forecast = _forecast()
    assert forecast.size_bytes == 1000 * 256 * 64 * 64 * 2  # raw16, and 64 x 64 is a size class
    assert forecast.num_shards == -(-forecast.size_bytes // (64 * 2**20))
    assert forecast.num_arrays == 1
    assert forecast.num_shards < forecast.num_puts < forecast.num_shards + 20
    assert 1000 < forecast.num_gets < 1000 + 3 * forecast.num_shards


def test_without_seconds_hours_and_price_are_unknown() -> None:
    forecast = _forecast()
    assert (forecast.wall_s, forecast.accelerator_hours, forecast.cpu_hours, forecast.bound_by) == (None,) * 4
    assert forecast.seconds.source == "nothing says"
    assert forecast.price.total is None
    assert forecast.price.storage_per_month == pytest.approx(20.0 * forecast.size_bytes / 1e12)


def test_hours_from_the_recipe() -> None:
    forecast = _forecast(costs=PRICES.model_copy(update={"seconds_per_image": {"sam2": 0.36}}))
    assert forecast.wall_s == pytest.approx(1000 * 0.36 / 4)
    assert forecast.accelerator_hours == pytest.approx(0.1)
    assert forecast.cpu_hours == pytest.approx(0.1)  # of the teachers alone: decoding isn't known
    assert forecast.bound_by == "teacher"
    assert forecast.price.accelerators == pytest.approx(0.2)
    assert forecast.price.total == pytest.approx(0.2 + 0.005 + forecast.price.requests)


def test_a_probe_counts_decoding_and_finds_the_slower_side() -> None:
    seconds = PhaseSeconds(
        "probe", read=0.1, decode=0.2, preprocess=0.1, forward=0.1, encode=0.02, write=0.01, start=30.0
    )
    fed_well = _forecast(measured=seconds, num_cpus=64)
    assert fed_well.num_decoders == 8  # four teachers, two batches ahead of each
    assert fed_well.bound_by == "feed"
    assert fed_well.wall_s == pytest.approx(30 + 1000 * 0.4 / 8)
    starved = _forecast(measured=seconds, num_cpus=5)
    assert starved.num_decoders == 2
    assert starved.wall_s == pytest.approx(30 + 1000 * 0.4 / 2)
    assert starved.cpu_hours == pytest.approx(4 * starved.wall_s / 3600 + 1000 * 0.4 * 0.5 / 3600)


def test_encoding_goes_beside_the_forward_pass_on_an_accelerator_alone() -> None:
    seconds = PhaseSeconds("probe", forward=0.10, encode=0.04, write=0.01)
    assert seconds.at_teacher(on_accelerator=True) == pytest.approx(0.10)
    assert seconds.at_teacher(on_accelerator=False) == pytest.approx(0.14)
    assert PhaseSeconds("probe", forward=0.01, encode=0.04, write=0.01).at_teacher(True) == pytest.approx(0.05)


def test_nothing_missing_costs_nothing() -> None:
    forecast = _forecast(num_missing=0)
    assert (forecast.num_shards, forecast.num_puts, forecast.size_bytes, forecast.wall_s) == (0, 0, 0, 0.0)
    assert forecast.price.total == 0.0


def test_what_has_no_price_leaves_the_sum_unknown() -> None:
    seconds = PhaseSeconds("probe", forward=0.36)
    assert _forecast(costs=CostsConfig(), measured=seconds).price.total is None
    no_cpu_price = PRICES.model_copy(update={"usd_per_cpu_hour": None})
    price = _forecast(costs=no_cpu_price, measured=seconds).price
    assert price.cpus is None
    assert price.accelerators is not None
    assert price.total is None


def test_it_is_plain_data() -> None:
    value = json.loads(json.dumps(_forecast(measured=PhaseSeconds("probe", forward=0.36)).to_json()))
    assert value["images"] == {"wanted": 10_000, "present": 8_993, "rejected": 7, "missing": 1_000}
    assert value["seconds"]["forward"] == 0.36
    assert value["price"]["total"] > 0


def test_parts_are_summed_or_scaled() -> None:
    one = PlanTotals(num_parts=1, num_images=1000, num_shards=20, num_arrays=3, num_cells=4000)
    assert one + PlanTotals() == one
    assert one + one == PlanTotals(2, 2000, 40, 6, 8000)
    assert one.scaled(1000) == one
    assert one.scaled(2500) == PlanTotals(3, 2500, 50, 8, 10_000)
    assert PlanTotals().scaled(0) == PlanTotals()
