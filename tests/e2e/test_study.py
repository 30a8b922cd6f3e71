"""A study on the smoke recipe, in two pieces, on a real local Ray."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml

from jobs.display import PlainDisplay
from jobs.study import load_study
from jobs.study_report import markdown
from jobs.study_runs import finished_study, run_study, study_folder

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(420),
    # Ray Data's settings object warns of its own old settings when it is made.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

STUDY = """
name: tiny
question: Does everything that a study asks get an answer?
recipe: smoke
changes:
  curation:
    sources:
      - {kind: grefcoco}
      - {kind: osprey}
      - kind: perbench
        detailed_caption: perbench/val/detailed_caption.json
        mcq: perbench/val/mcq.json
        visual_text_res: perbench/val/visual_text_res.json
        split: val
  student: {num_visual_prompts: 9}
  training:
    validation: {every_steps: 2, num_images: 2, num_pictures: 0}
  evaluation:
    max_new_tokens: 4
    benchmarks:
      - {kind: referring, splits: [val], variants: [standard], boundary: true}
      - {kind: multiple_choice, splits: [val], variants: [standard]}
      - {kind: text_loss, splits: [val]}
seeds: [0]
baseline: plain
runs:
  - name: plain
    changes:
      teachers: []
      student: {upsampling: none, visual_prompt: pooled}
      training: {losses: {distillation: {mask2former: 0, sam2: 0}}}
  - name: raw16
    changes: {features: {codec: raw16}}
metrics:
  - {label: cIoU}
  - {label: boundary F, metric: boundary_F}
  - {label: choices, benchmark: multiple_choice, metric: accuracy}
  - {label: text loss, benchmark: text_loss, metric: text_loss}
steps_to: [plain]
claims:
  - {text: It is alike, run: raw16, than: plain, metric: cIoU, expects: within, margin: 0.01}
"""


def test_a_study_in_two_pieces(local_ray: None, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(STUDY)))
    study, overrides = load_study(str(path)), [f"workspace={tmp_path}/runs"]
    display = PlainDisplay(io.StringIO())

    first = run_study(study, overrides, display, only=["plain"])
    assert first.missing == (("raw16", 0),)
    assert first.measured[0].curve[-1][0] == 4
    assert 0 <= first.values("plain", "boundary F")[0] <= 1
    # Untrained, a token costs the logarithm of the vocabulary's size, 5.8 nats.
    assert 3 < first.values("plain", "text loss")[0] < 7
    assert "1 of 2 runs are finished. Missing: raw16: seed 0." in "\n".join(markdown(study, first))

    whole = run_study(study, overrides, display)
    assert whole.missing == ()
    assert whole.values("plain", "cIoU") == first.values("plain", "cIoU")
    assert finished_study(study, overrides) == whole
    told = "\n".join(markdown(study, whole))
    assert "| raw16 | 1 |" in told
    assert "one seed, so that nothing can be said yet" in told
    assert [len(one.curve) for one in whole.measured] == [2, 2]
    folder = Path(study_folder(study, overrides).url)
    names = {file.name for file in folder.iterdir()}
    assert {"study.json", "table.md", "curves-all.svg", "scores-all.svg"} <= names
    assert (folder / "table.md").read_text() == told + "\n"
