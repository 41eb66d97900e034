"""Memories of transformers as adapters, on the command line and below it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")

from peft import PeftModel
from transformers import AutoModelForCausalLM

from dynlm.adapt.memory_file import load_about, options_of
from dynlm.adapt.memory_folder import current_params
from dynlm.adapt.options import MemoryOptions
from dynlm.cli.main import main
from dynlm.evaluation.session import Session
from dynlm.run.run import Run
from tests.cli.commands import refused
from tests.models.hf.test_commands import ADAM, Capture, answer

TEXT = "the bade of the kula was seen near a kula .\n" * 20
READ = [*ADAM, "--memory.lr", "0.01", "--memory.segment", "16", "--memory.reset", "stream"]
LORA = ["--memory.lora_rank", "4", "--memory.lora_alpha", "8"]
of_llama = pytest.mark.parametrize("pretrained", ["llama"], indirect=True)
MLP = {"llama": "mlp.down_proj", "gpt2": "mlp.c_proj"}


@pytest.fixture
def me(tmp_path: Path) -> Path:
    return tmp_path / "me.safetensors"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text(TEXT)
    return tmp_path / "book.txt"


def family_of(run: Path) -> str:
    return str(json.loads(json.loads((run / "model.json").read_text())["model"]["architecture"])["model_type"])


def check_logits(folder: Path, pretrained: Path, run: Path, memory: Path, tolerance: float) -> None:
    """Compare the logits of PEFT's model with those of the memory."""
    opened = Run.open(run)
    session = Session.open(opened.with_sections(options_of(memory, opened.section(MemoryOptions))), memory)
    ids_1T = torch.tensor([opened.trained.tokenizer.encode(TEXT).ids.tolist()[:40]])
    params, model = current_params(session.saved.memory, session.dynamic_model), session.dynamic_model.model
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pretrained), str(folder)).eval()
    with torch.no_grad():
        found = model.forward(params, model.init_state(1, torch.zeros(1)), ids_1T).logits_BTV
        torch.testing.assert_close(found, loaded(ids_1T).logits, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("pretrained", "more"),
    [("llama", ["--memory.lora_factors", "AB", "--memory.lora_scaling", "sqrt"]), ("gpt2", []), ("gpt_neox", [])],
    ids=["llama", "gpt2", "gpt_neox"],
    indirect=["pretrained"],
)
def test_peft_predicts_with_an_exported_memory_and_reading_goes_on(
    adopted: Path, pretrained: Path, more: list[str], me: Path, book: Path, tmp_path: Path, capsys: Capture
) -> None:
    answer(capsys, "read", adopted, book, "--memory", me, *READ, *LORA, *more)
    folder, again = tmp_path / "adapter", tmp_path / "again.safetensors"
    report = answer(capsys, "memory", "export", me, folder, "--run", adopted, "--text", book)
    assert (report["rank"], report["moved_rank"], report["errors"]) == (8, 4, None)
    assert report["base"]["name"] == str(pretrained)
    nats = report["nats_per_token"]
    assert nats["adapter"] == nats["memory"] < nats["static"] - 0.1
    assert report["not_carried_over"] == ["the mixture with the static model (memory.no_regret)"]

    check_logits(folder, pretrained, adopted, me, 1e-5)
    assert answer(capsys, "memory", "import", folder, again)["content"] == load_about(me)[0].content
    assert again.read_bytes() == me.read_bytes() and again.stat().st_mode & 0o077 == 0
    for path in (me, again):
        answer(capsys, "read", adopted, book, "--memory", path, "--again")
    assert again.read_bytes() == me.read_bytes()
    assert answer(capsys, "memory", "export", me, tmp_path / "later", "--run", adopted)["name"] != report["name"]


@of_llama
def test_the_name_is_by_content(adopted: Path, me: Path, book: Path, tmp_path: Path, capsys: Capture) -> None:
    answer(capsys, "read", adopted, book, "--memory", me, *READ, *LORA)
    report = answer(capsys, "memory", "export", me, tmp_path / "named", "--run", adopted, "--named", "--base", "a/b")
    (folder,) = (tmp_path / "named").iterdir()
    assert folder == Path(report["folder"]) and folder.name == report["name"] and folder.name.startswith("me-")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "a/b"
    described = json.loads((folder / "dynlm.json").read_text())
    run = Run.open(adopted)
    assert described["base"]["fingerprint"] == run.fingerprint
    assert described["base"]["tokenizer"] == run.trained.tokenizer.fingerprint
    assert (described["model"]["context"], described["model"]["stride"]) == (48, 24)
    memory = described["memory"]
    assert (memory["options"]["segment"], memory["rule"]["name"], memory["articles"]) == (16, "adam", 1)
    assert "already" in refused(
        capsys, "memory", "export", me, tmp_path / "named", "--run", adopted, "--named", "--base", "a/b"
    )


@pytest.mark.parametrize("pretrained", ["llama", "gpt2"], indirect=True)
def test_whole_weights_are_truncated_and_the_loss_is_told(
    adopted: Path, pretrained: Path, me: Path, book: Path, tmp_path: Path, capsys: Capture
) -> None:
    targets = ["--memory.targets", json.dumps([MLP[family_of(adopted)] + ".weight"])]
    answer(capsys, "read", adopted, book, "--memory", me, *READ, *targets)
    reports = {}
    for rank in (1, 8, 32):
        words = ["memory", "export", me, tmp_path / f"rank-{rank}", "--run", adopted, "--text", book, "--rank", rank]
        reports[rank] = answer(capsys, *words)
        assert len(reports[rank]["errors"]) == 2 and not reports[rank]["dropped"]
    assert 1 > reports[1]["relative_error"] > reports[8]["relative_error"] > reports[32]["relative_error"]
    assert reports[32]["relative_error"] < 1e-5
    nats = {rank: report["nats_per_token"] for rank, report in reports.items()}
    assert nats[32]["adapter"] == pytest.approx(nats[32]["memory"], abs=1e-4)
    assert nats[1]["memory"] == nats[32]["memory"] < nats[1]["adapter"] - 1e-4 < nats[1]["static"]

    check_logits(tmp_path / "rank-32", pretrained, adopted, me, 1e-4)
    described = json.loads((tmp_path / "rank-1" / "dynlm.json").read_text())["adapter"]
    assert described["errors"] == reports[1]["errors"] and described["made_of"] == "whole weights"
    again = tmp_path / "again.safetensors"
    answer(capsys, "memory", "import", tmp_path / "rank-1", again)
    assert again.read_bytes() == me.read_bytes()


@of_llama
def test_what_has_no_place_is_dropped_only_when_asked(
    adopted: Path, me: Path, book: Path, tmp_path: Path, capsys: Capture
) -> None:
    answer(capsys, "read", adopted, book, "--memory", me, *READ)
    words = ["memory", "export", me, tmp_path / "adapter", "--run", adopted]
    said = refused(capsys, *words)
    assert "no place for" in said and "--drop" in said and not (tmp_path / "adapter").exists()
    assert main([*map(str, words), "--drop", "--text", str(book)]) == 0
    said = capsys.readouterr().out
    assert "left out: " in said and "relative error of everything that moved: " in said
    assert "nats per token with frozen weights: static " in said
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


@of_llama
def test_damage_is_refused(adopted: Path, me: Path, book: Path, tmp_path: Path, capsys: Capture) -> None:
    answer(capsys, "read", adopted, book, "--memory", me, *READ, *LORA)
    folder, target = tmp_path / "adapter", tmp_path / "again.safetensors"
    assert "--run RUN" in refused(capsys, "memory", "export", me, folder)
    assert "no such run" in refused(capsys, "memory", "export", me, folder, "--run", tmp_path)
    assert "no such file" in refused(capsys, "memory", "export", target, folder, "--run", adopted).lower()
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert "empty" in refused(capsys, "memory", "export", me, folder, "--run", adopted, "--text", empty)
    whole = me.read_bytes()
    me.write_bytes(whole[:-8] + bytes(8))
    assert "damaged" in refused(capsys, "memory", "export", me, folder, "--run", adopted)
    me.write_bytes(whole)
    assert not folder.exists()
    answer(capsys, "memory", "export", me, folder, "--run", adopted)
    assert "no adapter folder" in refused(capsys, "memory", "import", tmp_path, target)
    assert "already" in refused(capsys, "memory", "import", folder, me)
    for name in ("dynlm.json", "dynlm.safetensors", "adapter_config.json", "adapter_model.safetensors"):
        for content in (None, b"", b"{}", (folder / name).read_bytes()[:-9]):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            (copy / name).unlink() if content is None else (copy / name).write_bytes(content)
            assert str(copy) in refused(capsys, "memory", "import", copy, target)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1}))
    assert "was changed" in refused(capsys, "memory", "import", folder, target)
    assert not target.exists()


@of_llama
def test_a_memory_of_another_base_is_refused(
    adopted: Path, pretrained: Path, me: Path, book: Path, tmp_path: Path, capsys: Capture
) -> None:
    answer(capsys, "read", adopted, book, "--memory", me, *READ, *LORA)
    module: Any = AutoModelForCausalLM.from_pretrained(pretrained)
    with torch.no_grad():
        next(module.parameters()).add_(1)
    other = tmp_path / "other"
    shutil.copytree(pretrained, other)
    module.save_pretrained(other)
    words = ["--run.name", "other", "--run.folder", tmp_path, "--model.context", "48", "--model.stride", "24"]
    assert main(["adopt", str(other), *map(str, words), "--run.cpu", "true", "--run.name", "others"]) == 0
    said = refused(capsys, "memory", "export", me, tmp_path / "adapter", "--run", tmp_path / "others")
    assert "another model" in said and not (tmp_path / "adapter").exists()


@of_llama
def test_the_base_is_named_with_its_revision(
    pretrained: Path, me: Path, book: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of a hub, from its cache."""
    revision, cached = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / "models--some--tiny"
    shutil.copytree(pretrained, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = ["--run.name", "tiny", "--run.folder", tmp_path, "--run.cpu", "true", "--model.context", "48"]
    answer(capsys, "adopt", "some/tiny", *words, "--model.stride", "24")
    answer(capsys, "read", tmp_path / "tiny", book, "--memory", me, *READ, *LORA)
    answer(capsys, "memory", "export", me, tmp_path / "adapter", "--run", tmp_path / "tiny")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/tiny", revision)


@of_llama
def test_a_memory_without_dynamic_weights_is_refused(
    adopted: Path, me: Path, book: Path, tmp_path: Path, capsys: Capture
) -> None:
    answer(capsys, "read", adopted, book, "--memory", me, "--memory.rule", "none", "--memory.segment", "16")
    said = refused(capsys, "memory", "export", me, tmp_path / "adapter", "--run", adopted)
    assert "no weights that move" in said and not (tmp_path / "adapter").exists()
