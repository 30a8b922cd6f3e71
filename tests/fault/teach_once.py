"""A run of `teach` as a process of its own: `python -m tests.fault.teach_once '{"corpus": ..., ...}'`."""

from __future__ import annotations

import json
import logging
import sys
import time

from jobs.session import ClusterConfig, ray_session
from pipelines.distillation import teaching
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.pipeline import teach
from storage.codecs import codec_of
from storage.corpus import Corpus
from storage.errors import SailloftError
from storage.objects import Objects
from tests.ledger_teacher import LedgerTeacherConfig, ledger_card


class _Lines:
    """Shows progress as one line per report, for whoever reads it."""

    def update(self, done: int, total: int, **facts: object) -> None:
        sys.stdout.write(f"progress {done}/{total} {facts}\n")
        sys.stdout.flush()


def main(settings: dict[str, object]) -> int:
    """Teaches; the exit code is that of the command line."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s: %(message)s")
    # The registry knows no test's teacher; workers get it as the configuration itself.
    teaching.teacher_card = ledger_card  # type: ignore[assignment]
    teacher = LedgerTeacherConfig.model_validate(settings["teacher"])
    features = FeaturesConfig.model_validate(settings["features"])
    start_s = time.monotonic()
    try:
        with ray_session(ClusterConfig()):
            corpus, output = Corpus.open(str(settings["corpus"])), Objects.open(str(settings["output"]))
            teach(corpus, teacher, features, codec_of(features.codec), output, _Lines())  # type: ignore[arg-type]
    except SailloftError as error:
        sys.stdout.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(f"done in {time.monotonic() - start_s:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
