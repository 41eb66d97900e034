"""Commands that train, on a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

from dynlm.evaluation.score_file import read_scores
from dynlm.run.folder import load_tensors
from tests.cli.commands import Capture, answer, answer_json, refused, tiny_options
from tests.tiny import Run, readable_name


def test_corpus_tells_what_is_there(tiny_corpus: Path, capsys: Capture) -> None:
    counts = answer_json(capsys, "corpus", "--corpus.path", tiny_corpus)
    assert {split: count["articles"] for split, count in counts.items()} == {"train": 18, "valid": 6, "test": 4}
    text = (tiny_corpus / "valid.txt").read_text()
    assert counts["valid"]["words"] == len(text.split()) + text.count("\n")
    assert counts["valid"]["types"] == len(set(text.split())) + 1
    said = answer(capsys, "corpus", "--corpus.path", tiny_corpus)
    assert f"{counts['valid']['words']:,}" in said
    assert str(tiny_corpus) in said


def test_pretrain_trains(tiny_corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    options = tiny_options(tiny_corpus, tmp_path / "runs", tmp_path)
    done = answer_json(capsys, "pretrain", *options, "--pretrain.epochs", "0.1")
    card = json.loads((tmp_path / "runs" / "tiny" / "model.json").read_text())
    assert done["valid_nats_per_token"] == card["valid_nats_per_token"]
    assert "perplexity" in answer(capsys, "pretrain", *options, "--run.name", "other")
    assert (tmp_path / "runs" / "other" / "model.safetensors").exists()


def test_tune_and_metatrain_keep_what_they_find(run_copy: Run, capsys: Capture) -> None:
    tuned = answer_json(capsys, "tune", run_copy.folder, "--memory.rule", "sgd", "--memory.reset", "article")
    kept = json.loads((run_copy.folder / "memory" / "tuned.json").read_text())
    assert kept["sgd"]["article"]["lr"] == tuned["lr"]
    learned = answer_json(capsys, "metatrain", run_copy.folder)
    assert learned["phi"].keys() == load_tensors(run_copy.folder / "model.safetensors")[0].keys()
    assert "level 1" in answer(capsys, "tune", run_copy.folder)
    said = answer(capsys, "metatrain", run_copy.folder)
    assert f"kept: {learned['kept']}" in said
    assert learned["passes"] > 1 and f": {learned['passes']:.2f} passes over the articles" in said
    assert "met articles that it had learned from before" in said
    once = answer(capsys, "metatrain", run_copy.folder, "--metatrain.tokens", "20")
    assert "passes over" in once and "met articles" not in once
    assert "met articles" not in answer(capsys, "metatrain", run_copy.folder, "--memory.reset", "article")


def test_finetune_makes_a_run_that_can_be_read(tuned_copy: Run, capsys: Capture) -> None:
    options = ("--memory.rule", "rms", "--finetune.tokens", "400", "--finetune.name", "moved")
    done = answer_json(capsys, "finetune", tuned_copy.folder, *options)
    assert Path(done["run"]) == tuned_copy.folder.parent / "moved"
    assert "\nrms " in answer(capsys, "score", done["run"], "--memory.rule", "rms", "--articles", "1")
    plain = answer(capsys, "finetune", tuned_copy.folder, "--memory.rule", "none", "--finetune.tokens", "400")
    assert "tiny-finetuned-none" in plain and "kept: " in plain


def test_a_cache_is_tuned_learned_scored_and_audited(tuned_copy: Run, capsys: Capture) -> None:
    folder = tuned_copy.folder
    assert "dynlm tune" in refused(capsys, "score", folder, "--memory.cache", "fixed")
    assert "dynlm metatrain" in refused(capsys, "score", folder, "--memory.cache", "learned")
    tuned = answer_json(capsys, "tune", folder, "--memory.rule", "none", "--memory.cache", "fixed")
    assert json.loads((folder / "memory" / "cache-none-stream.json").read_text())["window"] == tuned["window"]
    assert "rms + cache (stream): window" in answer(capsys, "tune", folder, "--memory.cache", "fixed")
    learned = answer_json(capsys, "metatrain", folder, "--memory.cache", "learned")
    assert learned["tuning_nats_per_token"]["learned"] < learned["tuning_nats_per_token"]["none"]
    assert "kept: " in answer(capsys, "metatrain", folder, "--memory.rule", "none", "--memory.cache", "learned")
    arms = {
        ("none", "none"): ("valid-4-6-none", "level 1"),
        ("none", "fixed"): ("valid-4-6-none-stream-cache", "level 1 + cache"),
        ("none", "learned"): ("valid-4-6-none-stream-gated-cache", "level 1 + gated cache"),
        ("rms", "fixed"): ("valid-4-6-rms-stream-cache", "rms + cache"),
        ("rms", "learned"): ("valid-4-6-rms-stream-gated-cache", "rms + gated cache"),
    }
    nats = {}
    for (rule, cache), (stem, arm) in arms.items():
        options = ("--memory.rule", rule, "--memory.cache", cache)
        path = Path(answer_json(capsys, "score", folder, *options, "--articles", "4-6")["file"])
        scores = read_scores(path)
        assert (readable_name(path), scores.variant) == (stem, arm)
        assert scores.protocol["level"] == (1 if rule == "none" else 3)
        assert scores.protocol.get("cache", {}).get("kind", "none") == cache
        nats[arm] = float(scores.nats.sum())
    assert nats["level 1 + cache"] < nats["level 1"]
    compared = answer_json(capsys, "compare", folder, "--resamples", "20")
    assert [variant["label"] for variant in compared["variants"]] == [arm for _, arm in arms.values()]
    assert compared["baseline"] == 0
    checks = answer_json(capsys, "check", folder, "--places", "3", "--memory.cache", "learned")
    assert checks["kept"] and len(checks["checks"]) == 4
    for cache in ("fixed", "learned"):
        assert answer_json(capsys, "generate", folder, "--tokens", "3", "--memory.cache", cache)["samples"]


def test_demo_does_the_whole_job_and_not_twice(tiny_corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    options = tiny_options(tiny_corpus, tmp_path / "runs", tmp_path)
    said = answer(capsys, "demo", *options)
    folder = tmp_path / "runs" / "tiny"
    assert {readable_name(path) for path in (folder / "scores").glob("*")} == {
        "test-none",
        "test-rms-stream",
        "test-meta-stream",
    }
    assert all(arm in said for arm in ("level 1", "rms", "meta"))
    assert "kept    meta without regret: no loss depends on a later token" in said and "BROKEN" not in said
    assert all(str(path) in said for path in (folder / "figures").iterdir())
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    again = answer_json(capsys, "demo", *options)
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert again["checks"]["kept"] is True
    assert sorted(again["files"]) == sorted(str(path) for path in (folder / "figures").iterdir())
