"""An adopted transformer on the command line: everything that an LSTM run has."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")

from dynlm.cli.main import main
from dynlm.evaluation.score_file import read_scores
from dynlm.run.folder import load_model
from dynlm.runtime.tensors import load_metadata, params_fingerprint

Capture = pytest.CaptureFixture[str]
OPTIONS = ["--memory.segment", "16", "--tune.tokens", "160", "--tune.fewest_tokens", "100", "--tune.rounds", "1"]
OPTIONS += ["--tune.articles", "1-3", "--tune.statistics_tokens", "600"]
LORA = ["--memory.lora_rank", "4", "--memory.lora_alpha", "8"]
ADAM = ["--memory.rule", "adam"]
of_llama = pytest.mark.parametrize("pretrained", ["llama"], indirect=True)


def answer(capsys: Capture, *words: object) -> dict[str, Any]:
    """Return what a command prints with ``--json``."""
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def untouched(adopted: Path, folder: Path) -> Path:
    """Return a copy of a run without what other tests found and read."""
    return Path(shutil.copytree(adopted, folder / "run", ignore=shutil.ignore_patterns("memory", "scores")))


def test_an_adopted_model_predicts_as_it_did(adopted: Path, pretrained: Path) -> None:
    from transformers import AutoModelForCausalLM

    trained, module = load_model(adopted), AutoModelForCausalLM.from_pretrained(pretrained).eval()
    ids_1T = torch.tensor([trained.tokenizer.encode("the town was seen near a village .\n").ids.tolist()])
    state = trained.model.init_state(1, torch.zeros(1))
    with torch.no_grad():
        found = trained.model.forward(trained.params, state, ids_1T).logits_BTV
        torch.testing.assert_close(found, module(ids_1T).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pretrained", "factors"),
    [("llama", []), ("gpt2", LORA)],
    ids=["all weights of llama", "LoRA of gpt2"],
    indirect=["pretrained"],
)
def test_an_adopted_model_takes_part_in_every_command(adopted: Path, factors: list[str], capsys: Capture) -> None:
    """Tuned, meta-trained, scored under four rules, compared, checked, reported; its weights stay as they are."""
    before = params_fingerprint(load_model(adopted).params)
    for rule in ("adam", "rms"):
        tuned = answer(capsys, "tune", adopted, "--memory.rule", rule, *factors, *OPTIONS)
        assert tuned["nats_per_token"] < tuned["level_1_nats_per_token"]
    words = ["--metatrain.tokens", "200", "--metatrain.window", "5", "--metatrain.pick_tokens", "100"]
    answer(capsys, "metatrain", adopted, *factors, *OPTIONS, *words)
    for rule in ("none", "adam", "rms", "meta"):
        more = [*factors, "--memory.segment", "16"] if rule != "none" else ["--memory.segment", "16"]
        answer(capsys, "score", adopted, "--memory.rule", rule, "--articles", "4-6", *more)
    rows = {row["label"]: row["nats_per_token"] for row in answer(capsys, "compare", adopted)["variants"]}
    static = next(nats for label, nats in rows.items() if "level 1" in label)
    # rms and g learned from some hundred tokens only: they may be as bad as the static model.
    assert len(rows) >= 4 and all(math.isfinite(nats) for nats in rows.values()), rows
    assert all(nats < static - 0.1 for label, nats in rows.items() if label.startswith("adam")), rows
    kept = answer(capsys, "check", adopted, *ADAM, *factors, "--memory.segment", "16", "--places", "4")
    assert kept["kept"] is True
    assert main(["report", str(adopted)]) == 0
    assert main(["verify", str(adopted)]) == 0
    assert params_fingerprint(load_model(adopted).params) == before


@pytest.mark.parametrize("pretrained", ["gpt_neox"], indirect=True)
def test_a_cache_and_the_static_model_are_partners_of_a_memory(adopted: Path, capsys: Capture) -> None:
    """Mixed with a cache and with level 1, no loss depends on a later token, and zero rates are level 1."""
    words = [*ADAM, *LORA, "--memory.lr", "0.01", "--memory.segment", "16", "--memory.no_regret", "true"]
    words += ["--memory.cache", "fixed", "--memory.cache_window", "100", "--memory.cache_share", "0.2"]
    words += ["--memory.cache_inverse_temperature", "[0.5]"]
    kept = answer(capsys, "check", adopted, *words, "--places", "4")
    assert kept["kept"] is True, kept
    static = ["--memory.rule", "none", "--memory.segment", "16"]
    scored = [answer(capsys, "score", adopted, "--articles", "4", *chosen) for chosen in (static, words)]
    plain, mixed = (each["variants"][-1]["nats_per_token"] for each in scored)
    assert mixed < plain


def test_an_adopted_model_reads_into_a_memory_file_and_generates(
    adopted: Path, tmp_path: Path, capsys: Capture
) -> None:
    text, memory = tmp_path / "text.txt", tmp_path / "memory.safetensors"
    text.write_text("the bade of the kula was seen near a kula .\n" * 20)
    words = [*ADAM, *LORA, "--memory.lr", "0.01", "--memory.segment", "16", "--memory.reset", "stream"]
    first = answer(capsys, "read", adopted, text, "--memory", memory, *words)
    again = answer(capsys, "read", adopted, text, "--memory", memory, "--again")
    nats = [read["nats_per_token"] for read in (first, again)]
    assert nats[1] < nats[0]
    assert main(["generate", str(adopted), "--prompt", "the bade", "--tokens", "5", "--memory", str(memory)]) == 0


@of_llama
def test_what_is_found_says_the_context_and_takes_no_more_than_it_needs(
    adopted: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Adam, and a g that starts there, are found without the gradient statistics of all weights."""
    run, rounds = untouched(adopted, tmp_path), ["--tune.rounds", "0"]
    other = ["--model.context", "32", "--model.stride", "16"]
    found = [answer(capsys, "tune", run, *ADAM, *LORA, *OPTIONS, *rounds, *other)]
    learn = ["--metatrain.tokens", "60", "--metatrain.window", "2", "--metatrain.pick_tokens", "60"]
    found.append(answer(capsys, "metatrain", run, *LORA, *OPTIONS, *other, "--g.base", "adam", *learn))
    assert [each["reading"] for each in found] == [{"context": 32, "stride": 16, "refresh": 0}] * 2
    assert not list(run.rglob("statistics.safetensors"))
    answer(capsys, "tune", run, *LORA, *OPTIONS, *rounds, *other, "--memory.rule", "rms")
    (path,) = run.rglob("statistics.safetensors")
    assert load_metadata(path)["reading"] == found[0]["reading"]
    words = ["--memory.rule", "meta", *LORA, "--memory.segment", "16", "--articles", "4"]
    assert math.isfinite(answer(capsys, "score", run, *words)["variants"][0]["nats_per_token"])


@of_llama
def test_another_seed_of_the_factors_is_another_memory(adopted: Path, tmp_path: Path, capsys: Capture) -> None:
    run, text, memory = untouched(adopted, tmp_path), tmp_path / "text.txt", tmp_path / "me"
    words = [*ADAM, *LORA, "--memory.lr", "0.01", "--memory.segment", "16"]
    score = ["score", run, *words, "--articles", "4", "--run.seed"]
    files = [Path(answer(capsys, *score, seed)["file"]) for seed in (0, 1)]
    assert len(set(files)) == 2 and (read_scores(files[0]).nats != read_scores(files[1]).nats).any()
    assert main(["verify", *map(str, files)]) == 0
    text.write_text("the bade of the kula was seen near a kula .\n")
    answer(capsys, "read", run, text, "--memory", memory, *words, "--memory.reset", "stream")
    assert main(["read", str(run), str(text), "--memory", str(memory), "--again", "--run.seed", "1"]) == 2
    assert "seed of factors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "what"),
    [("nothing/", "no such folder"), ("none.gguf", "no such GGUF file"), (".", "not a causal language model")],
)
def test_what_is_no_model_is_refused(name: str, what: str, tmp_path: Path, capsys: Capture) -> None:
    source = str(tmp_path / name) if name != "." else str(tmp_path)
    assert main(["adopt", source, "--run.folder", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert what in said and said.count("\n") == 1
    assert not (tmp_path / "runs" / "demo" / "model.json").exists()
