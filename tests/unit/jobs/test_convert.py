"""`sailloft convert`: every form into every other, what it says, and each error with its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import Qwen2Config, Qwen2ForCausalLM

from jobs import convert as convert_module
from model.checkpoint import checkpoint_files, load_checkpoint
from model.config import StudentConfig
from model.reference import to_released
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from storage.objects import Objects
from tests.command_line import CommandLine

UNTOLD = ("num_attention_heads=2", "rope_theta=1000000", "rms_norm_eps=1e-6")
SMALL = ("mask_dim=8", "num_visual_prompts=2")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs `sailloft convert` in this process; gives exit code, standard output and standard error."""
    return CommandLine(monkeypatch, capfd, "convert")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny Qwen2.5 as transformers writes it, with spare rows in its table."""
    folder = tmp_path / "qwen"
    config = Qwen2Config(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(40)}, unk_token="w0"))
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    return folder


def make_student(**changes: object) -> tuple[PixelSail, StudentTokenizer]:
    tokenizer = StudentTokenizer.train(["segment the red square"], 300, 3)
    config = StudentConfig.model_validate(
        {
            "vocab_size": tokenizer.vocab_size,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "mask_dim": 8,
            "num_visual_prompts": 3,
            **changes,
        }
    )
    return PixelSail(config).init_weights(torch.Generator().manual_seed(1)), tokenizer


@pytest.fixture
def student(tmp_path: Path) -> Path:
    folder = tmp_path / "student"
    folder.mkdir()
    for name, content in checkpoint_files(*make_student()).items():
        (folder / name).write_bytes(content)
    return folder


def same(first: PixelSail, second: PixelSail) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return (
        first.config == second.config
        and ours.keys() == theirs.keys()
        and all(ours[name].equal(theirs[name]) for name in ours)
    )


def test_a_dry_run_converts_and_writes_nothing(command: CommandLine, base: Path, tmp_path: Path) -> None:
    code, out, _ = command(base, tmp_path / "student", "patch_size_px=8", *SMALL, "--dry-run")
    assert code == 0
    assert f"MB would be written to {tmp_path}/student" in out
    code, out, _ = command(base, tmp_path / "student", "patch_size_px=8", *SMALL, "--dry-run", "--json")
    told = json.loads(out)
    assert (told["dry_run"], told["found"], told["form"]) == (True, "base qwen2", "student")
    assert not (tmp_path / "student").exists()


def test_a_base_becomes_a_student(command: CommandLine, base: Path, tmp_path: Path) -> None:
    code, out, err = command(base, tmp_path / "new" / "student", "patch_size_px=8", *SMALL)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "found    base qwen2, 2 layers of hidden size 16"
    model, tokenizer = load_checkpoint(Objects.open(tmp_path / "new" / "student"))
    number = sum(parameter.numel() for parameter in model.parameters())
    assert lines[1].startswith(f"made     student, {number:,} parameters, float32, ")
    assert lines[2] == (
        "drawn    vis_embed, vp_embed, mask_features, seg_query, distillation_heads, embeddings of 15 tokens "
        "(<|endoftext|>, <|im_start|>, ... <NO_Prompt>); seed 0"
    )
    assert lines[3:] == ["dropped  nothing", f"next     sailloft run RECIPE training.init={tmp_path}/new/student"]
    assert f"reading {base}" in err
    assert "0 to go" not in err
    assert (model.config.patch_size_px, model.config.vocab_size, tokenizer.vocab_size) == (8, 60, 55)
    theirs = load_file(base / "model.safetensors")
    assert model.layers[1].down_proj.weight.equal(theirs["model.layers.1.mlp.down_proj.weight"])
    assert model.embed_tokens.weight[:40].equal(theirs["model.embed_tokens.weight"][:40])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["student"]


def test_the_seed_and_separate_weights(command: CommandLine, base: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert command(base, first, *SMALL)[0] == 0
    code, out, _ = command(base, second, *SMALL, "modality_weights=separate", "--seed", "5")
    assert code == 0
    assert "patches' own weights as copies of the text's; seed 5" in out
    vis_embed = [load_checkpoint(Objects.open(folder))[0].vis_embed.weight for folder in (first, second)]
    assert not vis_embed[0].equal(vis_embed[1])


def test_a_student_there_and_back(command: CommandLine, student: Path, tmp_path: Path) -> None:
    code, out, _ = command(student, tmp_path / "released", "--format", "released")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "released").iterdir()) == ["model.safetensors", "tokenizer.json"]
    next_command = next(line for line in out.splitlines() if line.startswith("next"))
    assert "num_attention_heads=2 rope_theta=1000000.0 rms_norm_eps=1e-06" in next_command
    code, out, _ = command(tmp_path / "released", tmp_path / "back", *next_command.split()[5:8])
    assert code == 0
    assert out.startswith("found    released weights, 2 layers")
    assert f"next     sailloft predict {tmp_path}/back IMAGE TEXT" in out
    (before, tokenizer), (after, again) = (
        load_checkpoint(Objects.open(folder)) for folder in (student, tmp_path / "back")
    )
    assert same(before, after)
    assert again.to_json() == tokenizer.to_json()


def test_a_student_is_written_anew(command: CommandLine, student: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()  # an empty folder may be there
    assert command(student, tmp_path / "copy")[0] == 0
    for path in student.iterdir():
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()


def test_a_base_becomes_released_weights_at_once(command: CommandLine, base: Path, tmp_path: Path) -> None:
    assert command(base, tmp_path / "released", *SMALL, "--format", "released")[0] == 0
    assert command(base, tmp_path / "student", *SMALL)[0] == 0
    model, _ = load_checkpoint(Objects.open(tmp_path / "student"))
    weights = load_file(tmp_path / "released" / "model.safetensors")
    assert all(tensor.equal(weights[name]) for name, tensor in to_released(model.state_dict()).items())


@pytest.mark.parametrize("name", ["iter_7.pth", "weights.pt", "w.bin", "w.safetensors"])
def test_files_of_released_weights(command: CommandLine, tmp_path: Path, name: str) -> None:
    model, tokenizer = make_student(tie_word_embeddings=False)
    released = to_released(model.state_dict())
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(tokenizer.to_json())
    if name.endswith(".safetensors"):
        save_file(released, tmp_path / name)
    else:
        torch.save({"meta": {"iter": 7}, "state_dict": released}, tmp_path / name)
    options = ("--tokenizer", tmp_path / "tokenizer", *UNTOLD)
    assert command(tmp_path / name, tmp_path / "out", *options)[0] == 0
    assert same(load_checkpoint(Objects.open(tmp_path / "out"))[0], model)


def test_sharded_files_of_released_weights(command: CommandLine, tmp_path: Path) -> None:
    model, tokenizer = make_student()
    released = to_released(model.state_dict())
    names = sorted(released)
    folder = tmp_path / "iter_7"
    folder.mkdir()
    for number, part in enumerate((names[:20], names[20:])):
        torch.save({"state_dict": {name: released[name] for name in part}}, folder / f"part-{number}.pth")
    (folder / "tokenizer.json").write_text(tokenizer.to_json())
    assert command(folder, tmp_path / "out", *UNTOLD)[0] == 0
    assert same(load_checkpoint(Objects.open(tmp_path / "out"))[0], model)


def write_released(folder: Path, tokenizer_json: str | None = None) -> Path:
    model, tokenizer = make_student()
    folder.mkdir()
    save_file(to_released(model.state_dict()), folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(tokenizer_json or tokenizer.to_json())
    return folder


def test_a_base_tokenizer_that_the_special_tokens_complete_is_taken(command: CommandLine, tmp_path: Path) -> None:
    """The released program adds its tokens behind the base's in the same order."""
    model, tokenizer = make_student()
    content = json.loads(tokenizer.to_json())
    content["added_tokens"] = content["added_tokens"][:-7]  # all from [SEG] on
    folder = write_released(tmp_path / "in", json.dumps(content))
    code, _, err = command(folder, tmp_path / "out", *UNTOLD, "num_visual_prompts=3")
    assert code == 0, err
    loaded, again = load_checkpoint(Objects.open(tmp_path / "out"))
    assert same(loaded, model)
    assert again.to_json() == tokenizer.to_json()


def test_another_student_s_tokenizer_is_refused(command: CommandLine, tmp_path: Path) -> None:
    other = StudentTokenizer.train(["segment"], 300, 3)
    content = json.loads(other.to_json())
    content["added_tokens"] = content["added_tokens"][:-7]
    folder = write_released(tmp_path / "in", json.dumps(content))
    code, _, err = command(folder, tmp_path / "out", *UNTOLD, "num_visual_prompts=3")
    assert code == 3
    num_tokens = make_student()[1].vocab_size
    assert f"expected {num_tokens} tokens, one for each row of the embeddings, got" in err
    assert "give the folder of this student's tokenizer by --tokenizer" in err


def test_wrong_usage(command: CommandLine, base: Path, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    released = write_released(tmp_path / "released")
    bare = tmp_path / "bare"
    bare.mkdir()
    save_file(load_file(released / "model.safetensors"), bare / "model.safetensors")
    (tmp_path / "notes.txt").write_text("x")
    wrong: list[tuple[tuple[str | Path, ...], str]] = [
        ((tmp_path / "nowhere", out), "expected a file or a folder with weights, found nothing; correct the path"),
        ((tmp_path / "notes.txt", out), "expected a folder or a file .safetensors, .pth, .pt, .bin, got notes.txt"),
        ((base, student), "expected a new or empty folder, found content; name another one, or remove it"),
        ((base, tmp_path / "notes.txt"), "expected a new or empty folder, found content"),
        ((base, "s3://bucket/out"), "expected a local folder; write one and copy it to the store"),
        ((base, out, "mask_strid_px=2"), "mask_strid_px: no such field of a student; did you mean mask_stride_px?"),
        ((base, out, "mask_stride_px"), "expected field=value"),
        ((base, out, "mask_stride_px=3"), "mask_stride_px: expected patch_size_px 16 divided by a power of two"),
        ((base, out, "hidden_size=32"), "hidden_size: expected 16"),
        ((student, out, "mask_dim=4"), "which has its configuration and its tokenizer, got mask_dim; leave them out"),
        ((student, out, "--tokenizer", base), "got --tokenizer; leave them out"),
        ((released, out, "rms_norm_eps=1e-6"), "expected num_attention_heads=..., rope_theta=..., which shapes can't"),
        ((bare, out, *UNTOLD), "expected tokenizer.json, found none; name a folder that has it by --tokenizer"),
        ((base, out, "--tokenizer", bare), "expected tokenizer.json, found none"),
        ((base, out, "--format", "gguf"), "'gguf' is not one of"),
        ((base,), "Missing argument"),
    ]
    for arguments, message in wrong:
        code, _, err = command(*arguments)
        assert (code, message in err) == (2, True), (arguments, err)
    assert not out.exists()


def test_bad_data(command: CommandLine, base: Path, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "tokenizer").mkdir()
    (base / "tokenizer.json").rename(tmp_path / "tokenizer" / "tokenizer.json")
    code, _, err = command(base, out)
    assert code == 3
    assert "expected tokenizer.json, found none; make it with transformers" in err
    code, _, err = command(base, out, *SMALL, "--tokenizer", student)
    assert code == 3
    assert "tokenizer.json: expected ids below 60, the rows of the embeddings, got 2" in err
    weights = load_file(base / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, base / "model.safetensors")
    code, _, err = command(base, out, "--tokenizer", tmp_path / "tokenizer")
    assert code == 3
    assert "model.norm.weight: expected (16,), got none" in err
    folder = write_released(tmp_path / "released")
    weights = load_file(folder / "model.safetensors")
    weights["image_feature_projector.0.bias"] = torch.ones(3)
    save_file(weights, folder / "model.safetensors")
    code, _, err = command(folder, out, *UNTOLD)
    assert code == 3
    assert "mask_features.project.0.bias: expected (16,), got (3,)" in err
    assert not out.exists()


def test_nothing_half_written_is_left(
    command: CommandLine, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / "full"

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    code, _, err = command(student, parent / "out")
    assert code == 4
    assert "No space left on device; check permissions and free space" in err
    assert list(parent.iterdir()) == []


def test_progress_of_writing_counts_megabytes(
    command: CommandLine, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_module, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(convert_module, "_MEGABYTE", 1000)
    code, _, err = command(student, tmp_path / "out")
    assert code == 0
    assert "write" in err
    for path in student.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_help_has_examples(command: CommandLine) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert "sailloft convert models/Qwen2.5-0.5B students/base patch_size_px=16" in out
