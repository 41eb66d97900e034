"""A packed model is what its run is, up to rounding; it is small, whole, found by its name and never written to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import dynlm
from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.evaluation.checks.packed import FILE, check_packed
from dynlm.evaluation.packing import pack
from dynlm.run import locate
from dynlm.run.folder import load_model
from dynlm.run.packing import kept_memories
from dynlm.run.run import Run as OpenRun
from dynlm.runtime.checksums import write_checksums
from dynlm.runtime.tensors import load_tensors
from tests.tiny import Run, listing, opened, with_memory
from tests.trainings import train_gate

TEXT = " the bafidela of the town was seen near a bafidela .\n" * 6


@pytest.fixture(scope="module")
def gated_run(tuned_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the tuned run, with a fixed cache tuned and a gate learned beside meta."""
    import shutil

    folder = tmp_path_factory.mktemp("gated") / "tiny"
    shutil.copytree(tuned_run.folder, folder)
    config = with_memory(tuned_run.config, rule="meta", cache="learned")
    train_gate(folder, config)
    (folder / "scores").mkdir(exist_ok=True)
    (folder / "memory" / "me.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return Run(folder, tuned_run.config, tuned_run.corpus)


@pytest.fixture(scope="module")
def models(gated_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, with the run packed as ``small``."""
    folder = tmp_path_factory.mktemp("models")
    config = with_memory(gated_run.config, rule="meta")
    done = pack(opened(gated_run.folder, config), folder / "small", tokens=200)
    assert done["figures"].keys() == {"level 1", "rms, stream", "meta, stream", "meta + gated cache, stream"}
    assert abs(done["rounding"]["difference"]) < 1e-3
    return folder


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder from which the models are found."""
    monkeypatch.setattr(locate, "MODELS", (models, models / "none"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_is_kept_and_nothing_else(gated_run: Run, models: Path) -> None:
    memory = {
        f"{name}-{reset}.{end}"
        for name in ("meta",)
        for reset in ("stream", "article")
        for end in ("json", "safetensors")
    }
    memory |= {"statistics.safetensors", "tuned.json", "cache-meta-stream.json"}
    memory |= {"gated-cache-meta-stream.json", "gated-cache-meta-stream.safetensors"}
    whole = {f"memory/{name}" for name in memory} | {"tokenizer/tokenizer.json", "tokenizer/tokenizer.model"}
    whole |= set("README.md checksums.json config.json config.yaml figures.json model.json provenance.json".split())
    files = listing(models / "small")
    assert files.keys() == {*whole, "model.safetensors"}
    for name, content in files.items():
        for path in (gated_run.corpus, gated_run.folder.parent):
            assert str(path).encode() not in content, name
    config = yaml.safe_load(files["config.yaml"])
    assert (config["run"]["name"], config["run"]["folder"], config["memory"]["rule"]) == ("small", "runs", "meta")
    run, packed = OpenRun.open(gated_run.folder), OpenRun.open(models / "small")
    assert kept_memories(run.store, 20) == kept_memories(packed.store, 20)
    assert len(kept_memories(packed.store, 20)) == 9
    provenance = json.loads(files["provenance.json"])
    assert {(one["what"], one["how"]) for one in provenance["tuned_on"]} == {
        *(
            ("rates", "tuned"),
            ("g", "learned"),
            ("g", "picked"),
            ("cache", "tuned"),
            ("gate", "learned"),
            ("gate", "picked"),
        )
    }
    assert provenance["sittings"] and provenance["data"] and provenance["packed"]["versions"]


def test_half_the_bytes_and_the_same_numbers_but_for_rounding(gated_run: Run, models: Path) -> None:
    weights, R = (
        load_tensors(models / "small" / name)[0] for name in ("model.safetensors", "memory/statistics.safetensors")
    )
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert {tensor.dtype for tensor in R.values()} == {torch.bfloat16}
    run, packed = OpenRun.open(gated_run.folder), OpenRun.open(models / "small")
    for name, tensor in packed.trained.params.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, run.trained.params[name], rtol=1e-3, atol=1e-6)
    exact, rounded = (each.store.load_statistics() for each in (run, packed))
    assert exact is not None and rounded is not None
    for name, tensor in rounded[0].rms.items():
        torch.testing.assert_close(tensor, exact[0].rms[name], rtol=1 / 256, atol=0)
    for options in ({"rule": "rms"}, {"rule": "meta", "cache": "learned"}):
        one, other = (dynlm.load(path, **options).read(TEXT).nats for path in (gated_run.folder, models / "small"))
        assert np.abs(one - other).max() < 0.05 and abs(one.mean() - other.mean()) < 1e-3
    assert packed.trained.card["rounded_from"] == run.fingerprint != packed.fingerprint


def test_learned_rules_are_chosen_by_name(gated_run: Run, tmp_path: Path) -> None:
    run = opened(gated_run.folder, gated_run.config)
    pack(run, tmp_path / "rms", [], tokens=0)
    assert not [name for name in listing(tmp_path / "rms") if "meta" in name or name == FILE]
    with pytest.raises(UserError, match="no learned rule 'mata'"):
        pack(run, tmp_path / "other", ["mata"])
    with pytest.raises(UserError, match="no learned memory 'meta'"):
        pack(opened(gated_run.folder, with_memory(gated_run.config, rule="meta")), tmp_path / "other", [], tokens=0)
    assert not (tmp_path / "other").exists()


def test_verify_finds_what_was_changed(
    models: Path, gated_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    good, folder = models / "small", tmp_path / "small"
    assert main(["verify", str(good), "--path", str(gated_run.corpus)]) == 0
    assert "9 variants open and read, 4 figures of" in capsys.readouterr().out
    shutil.copytree(good, folder)
    path = folder / FILE
    figures = json.loads(path.read_text())
    figures["figures"][1]["nats_per_token"] += 0.002
    path.write_text(json.dumps(figures))
    assert check_packed(folder).broken == ["figures.json was changed"]
    write_checksums(folder)
    (broken,) = check_packed(folder, str(gated_run.corpus)).broken
    assert broken.startswith("rms, stream: ")
    assert check_packed(folder).holds  # No text, no figures.
    figures["split_text"] = "0" * 16
    path.write_text(json.dumps(figures))
    write_checksums(folder)
    assert "figures are of 0000" in check_packed(folder, str(gated_run.corpus)).broken[0]
    (folder / "memory" / "statistics.safetensors").unlink()
    write_checksums(folder)
    assert main(["verify", str(folder)]) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_a_model_is_opened_by_its_name(place: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(models)
    assert dynlm.load("small").fingerprint == load_model(models / "small").fingerprint
    (place / "book.txt").write_text(TEXT)
    assert main(["read", "small", "book.txt", "--memory", "me.safetensors"]) == 0
    assert main(["generate", "small", "--memory", "me.safetensors", "--tokens", "5"]) == 0
    assert main(["verify", "small"]) == 0
    assert not (place / "runs").exists() and listing(models) == before
    assert main(["generate", "smoll"]) == 2
    assert f"(did you mean small?); looked in {place}, {models}" in capsys.readouterr().err
    with pytest.raises(UserError, match="or one of the models small"):
        dynlm.load("smoll")


def test_results_go_to_a_copy_among_the_runs(
    place: Path, models: Path, gated_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before, words = listing(models), ["--corpus.path", str(gated_run.corpus), "--articles", "1-2", "--json"]
    assert main(["score", "small", "--memory.rule", "rms", *words]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert Path(answer["file"]).parent == Path("runs/small/scores") and listing(models) == before
    assert main(["score", "small", "--memory.rule", "none", *words]) == 0
    assert main(["compare", "small"]) == 0
    assert main(["verify", "small"]) == 0
    assert "level 1" in capsys.readouterr().out
    few = ["--tune.articles", "1-3", "--tune.tokens", "350", "--tune.fewest_tokens", "100", "--tune.rounds", "1"]
    assert main(["tune", str(models / "small"), "--memory.rule", "sgd+decay", *words[:2], *few]) == 0
    assert OpenRun.open("small").store.load_tuned("sgd+decay", "stream") is not None
    assert listing(models) == before


def test_a_study_is_of_its_copy(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studied = []

    def study(options: Any, **_: Any) -> None:
        studied.append(options.run.path)
        raise UserError("that is enough")

    monkeypatch.setattr("dynlm.study.run.study", study)
    assert main(["study", "small"]) == 2
    assert studied == [Path("runs/small")] and OpenRun.open("runs/small").trained


def test_a_packed_model_is_shared_as_it_is(models: Path, tmp_path: Path) -> None:
    dynlm.load(models / "small").save_pretrained(tmp_path / "shared")
    shared = dynlm.DynamicLM.from_pretrained(tmp_path / "shared")
    assert np.array_equal(shared.read(TEXT).nats, dynlm.load(models / "small").read(TEXT).nats)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "shared", models / "small")]
    assert sizes[0] == sizes[1]


def test_its_card_says_how_to_open_it_and_what_it_was_made_of(models: Path) -> None:
    card = (models / "small" / "README.md").read_text(encoding="utf-8")
    assert 'dynlm.load("small")' in card and "from_pretrained" not in card
    assert "| rms, stream" in card and "| static parameters" in card and "| gate" in card
