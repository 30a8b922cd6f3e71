from __future__ import annotations

import pytest

from pipelines.distillation.retries import persistently
from storage.errors import DataError, InfrastructureError, ManifestConflict
from tests.counted_metrics import CountedMetrics


class Step:
    """Fails with each of the errors, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_trouble_of_storage_is_sat_out_with_growing_pauses() -> None:
    pauses: list[float] = []
    counted = CountedMetrics()
    step = Step(*(InfrastructureError("503") for _ in range(4)))
    assert persistently("publishing", step, 4, pauses.append, counted) == "done"
    assert len(pauses) == 4
    assert counted.counts == {("sailloft_retries_total", "storage"): 4}
    assert pauses[3] > pauses[0]


def test_the_last_attempt_tells_why() -> None:
    with pytest.raises(InfrastructureError, match="third"):
        persistently("x", Step(*map(InfrastructureError, ("first", "second", "third"))), 2, lambda seconds: None)


@pytest.mark.parametrize("error", [ManifestConflict("other"), DataError("torn")])
def test_what_no_retry_mends_is_raised_at_once(error: Exception) -> None:
    pauses: list[float] = []
    with pytest.raises(type(error), match=str(error)):
        persistently("x", Step(error), 5, pauses.append)
    assert not pauses
