"""The command line: every verb's happy path on a tiny run, and bad input said in one line with nothing half-written."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dynlm.adapt.options import StepOptions
from dynlm.cli.main import COMMANDS, main
from dynlm.data.options import TokenizerOptions
from dynlm.evaluation.score_file import read_scores
from dynlm.run.folder import load_tensors
from tests.tiny import Run, article, as_yaml, listing, readable_name, tiny_config, write_corpus

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


def answer(capsys: Capture, *arguments: object) -> str:
    """What ``dynlm`` prints on standard output, having ended well."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def answer_json(capsys: Capture, *arguments: object) -> Any:
    """The same with --json, parsed: nothing else may be on standard output."""
    return json.loads(answer(capsys, *arguments, "--json"))


def refused(capsys: Capture, *arguments: object) -> str:
    """The one line that ``dynlm`` says of what the user can mend, having ended with 2."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 2, f"ended with {code}: {out}{err}"
    assert out == ""
    assert err.startswith("dynlm: error: ")
    assert err.endswith("\n") and err.count("\n") == 1, err
    return err


def tiny_options(corpus: Path, runs: Path, tmp_path: Path, **options: Any) -> list[str]:
    """Options that train a tiny run on ``corpus`` into ``runs``, by way of a YAML file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(as_yaml(tiny_config(corpus, runs, pretrain={"epochs": 0.2}, **options)))
    return ["--config", str(path)]


def process(*arguments: object, folder: Path, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """Run a command with the checkout's dynlm, from ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(argument) for argument in arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


# --- Every verb does what it is for ---------------------------------------------------------------------------------


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


def test_score_compare_and_pictures(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    folder = tuned_copy.folder
    for rule in ("none", "rms"):
        scored = answer_json(capsys, "score", folder, "--memory.rule", rule, "--articles", "4-6")
        assert Path(scored["file"]).parent == folder / "scores"
        scores = read_scores(Path(scored["file"]))
        assert scores.articles.tolist() == [3, 4, 5]
    compared = json.dumps(answer_json(capsys, "compare", folder, "--resamples", "50"))
    assert '"rms"' in compared and '"level 1"' in compared
    said = answer(capsys, "compare", folder, "--resamples", "50")
    assert said.index("level 1") < said.index("rms")
    assert "|" in answer(capsys, "compare", folder, "--resamples", "50", "--format", "markdown")
    command = ("compare", folder, "--resamples", "50")
    assert answer(capsys, *command, "--format", "json") == answer(capsys, *command, "--json")
    assert answer(capsys, "compare", *(folder / "scores").iterdir(), "--resamples", "50") == said
    plotted = answer_json(capsys, "plot", folder, "--window", "100", "--out", tmp_path / "out")["files"]
    mapped = answer_json(capsys, "heatmap", folder, "--article", "5", "--length", "40", "--out", tmp_path / "out")
    files = [Path(name) for name in (*plotted, *mapped["files"])]
    assert {path.suffix for path in files} == {".png", ".svg", ".pdf", ".html"}
    assert all(path.parent == tmp_path / "out" and path.stat().st_size > 500 for path in files)
    assert sorted(files) == sorted((tmp_path / "out").iterdir())
    assert "Tokens 3 to 12 of" in answer(
        capsys, "heatmap", folder, "--terminal", "--article", "5", "--start", "3", "--length", "10"
    )


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


def test_score_reads_articles_in_a_shuffled_order(tuned_copy: Run, capsys: Capture) -> None:
    order = ("--order", "shuffled", "--order_seed", "3")
    path = Path(answer_json(capsys, "score", tuned_copy.folder, "--memory.rule", "rms", *order)["file"])
    assert readable_name(path) == "valid-rms-stream-shuffled-3"
    assert read_scores(path).protocol["order"] == "shuffled, seed 3"
    assert "order is 'backwards'" in refused(capsys, "score", tuned_copy.folder, "--order", "backwards")


def test_report_writes_one_page_from_score_files(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    folder = tuned_copy.folder
    for rule in ("none", "rms"):
        answer(capsys, "score", folder, "--memory.rule", rule, "--articles", "4-6")
    (made,) = answer_json(capsys, "report", folder, "--resamples", "50")["files"]
    assert Path(made) == folder / "figures" / "report.html"
    page = Path(made).read_text(encoding="utf-8")
    assert "learning rate, and decay toward the static weights" in page.lower() and "lstm" in page
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "fewshot.json").write_text('{"title": "Omniglot"}')
    out = tmp_path / "made" / "page.html"
    answer(capsys, "report", folder, tmp_path / "few", "--out", out, "--window", "30", "--resamples", "50")
    assert '<h2 id="fewshot-1">Omniglot</h2>' in out.read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_report_opens_the_page_where_there_is_a_browser(
    tuned_copy: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    import webbrowser

    for rule in ("none", "rms"):
        answer(capsys, "score", tuned_copy.folder, "--memory.rule", rule, "--articles", "4")
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    (made,) = answer_json(capsys, "report", tuned_copy.folder, "--open")["files"]
    assert opened == [Path(made).resolve().as_uri()]


def test_reports_that_cannot_be_made_are_refused(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    folder = tuned_copy.folder
    assert "dynlm score" in refused(capsys, "report", folder)
    answer(capsys, "score", folder, "--memory.rule", "none", "--articles", "4")
    assert "at least two" in refused(capsys, "report", folder)
    answer(capsys, "score", folder, "--memory.rule", "rms", "--articles", "4")
    assert "a folder" in refused(capsys, "report", folder, "--out", tmp_path)
    assert "--window is 0" in refused(capsys, "report", folder, "--window", "0")
    (tmp_path / "fewshot.json").write_text('{"tables": []}')
    assert "no 'title'" in refused(capsys, "report", folder, tmp_path)
    assert "name a run" in refused(capsys, "report", tmp_path)
    assert "writes no files" in refused(capsys, "heatmap", folder, "--terminal", "--json")
    assert not (folder / "figures").exists()


def test_audit_says_what_is_kept(tuned_run: Run, capsys: Capture) -> None:
    checks = answer_json(capsys, "check", tuned_run.folder, "--places", "2")
    assert checks["kept"] and len(checks["checks"]) == 4
    said = answer(capsys, "check", tuned_run.folder, "--memory.rule", "none", "--places", "2")
    assert all(line.startswith("kept") for line in said.splitlines())


def test_audit_of_a_broken_promise_ends_with_1(
    tuned_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from dynlm.evaluation.checks import protocol as audit

    monkeypatch.setattr(audit, "check_dynamic_model", lambda *_: [audit.Check("a promise", False, "once")])
    assert main(["check", str(tuned_run.folder)]) == 1
    assert "BROKEN  a promise (once)" in capsys.readouterr().out


def test_no_regret_is_scored_beside_its_rule(tuned_copy: Run, capsys: Capture) -> None:
    folder, options = tuned_copy.folder, ["--articles", "4-5", "--memory.rule"]
    files = {}
    for arm in (["none", "--memory.no_regret", "true"], ["rms", "--memory.no_regret", "true"], ["rms"]):
        path = Path(answer_json(capsys, "score", folder, *options, *arm)["file"])
        files[readable_name(path)] = read_scores(path)
    names = ["valid-4-5-none", "valid-4-5-rms-stream", "valid-4-5-rms-stream-no-regret"]
    level_1, rms, mixture = (files[name] for name in names)
    assert (level_1.variant, rms.variant, mixture.variant) == ("level 1", "rms", "no-regret (rms)")
    assert mixture.protocol["no_regret"] == {"share": 1e-3}
    assert "fixed share" in mixture.protocol["statement"]
    assert not any("no_regret" in scores.protocol for scores in (level_1, rms))
    best = min(float(scores.nats.sum()) for scores in (level_1, rms))
    assert float(mixture.nats.sum()) <= best + np.log(2) + len(mixture) * 5.1e-4
    labels = [variant["label"] for variant in answer_json(capsys, "compare", folder, "--resamples", "0")["variants"]]
    assert labels == ["level 1", "rms", "no-regret (rms)"]


def test_no_regret_reads_a_prompt_and_keeps_every_promise(tuned_run: Run, capsys: Capture) -> None:
    options = [tuned_run.folder, "--memory.no_regret", "true"]
    assert answer_json(capsys, "check", *options, "--places", "3")["kept"]
    said = [
        answer_json(capsys, "generate", *options, "--prompt", " the town", "--tokens", "8", "--memory.switch_share", s)
        for s in ("0.001", "0.5")
    ]
    assert all(each["samples"][0]["text"] for each in said)
    assert "memory.switch_share is 2" in refused(capsys, "score", *options, "--memory.switch_share", "2")


def test_hostile_texts_are_read_three_ways(tuned_run: Run, capsys: Capture) -> None:
    told = answer_json(capsys, "stress", tuned_run.folder, "--tokens", "90", "--memory.switch_share", "0.002")
    assert told["kept"] and told["share"] == 0.002 and told["variant"] == "rms"
    assert len(told["texts"]) == 5 and all(text["tokens"] <= 90 for text in told["texts"])
    said = answer(capsys, "stress", tuned_run.folder, "--tokens", "90", "--memory.rule", "meta")
    assert "meta - level 1" in said and said.count("  kept\n") == 5
    assert "level 1 itself" in refused(capsys, "stress", tuned_run.folder, "--memory.rule", "none")


def test_hostile_texts_that_hurt_end_with_1(tuned_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from dynlm.evaluation.checks import stress as hostile

    monkeypatch.setattr(hostile, "ALLOWED", -10.0)
    assert main(["stress", str(tuned_run.folder), "--tokens", "40"]) == 1
    assert "BROKEN" in capsys.readouterr().out


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


def test_a_runs_own_options_are_the_defaults(tuned_run: Run, capsys: Capture) -> None:
    printed = yaml.safe_load(printed_config(capsys, "score", tuned_run.folder, "--memory.rule", "sgd"))
    assert printed["corpus"]["path"] == str(tuned_run.corpus)
    assert printed["memory"]["segment"] == 20
    assert printed["memory"]["rule"] == "sgd"


def printed_config(capsys: Capture, *arguments: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments), "--print_config"])
    assert not stop.value.code
    return capsys.readouterr().out


def test_a_printed_config_is_one_to_start_from(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(printed_config(capsys, "pretrain", "--pretrain.lanes", "3", "--run.name", "mine"))
    printed = yaml.safe_load(printed_config(capsys, "pretrain", "--config", path))
    assert printed == yaml.safe_load(path.read_text())
    assert (printed["pretrain"]["lanes"], printed["run"]["name"]) == (3, "mine")


def help_of(capsys: Capture, *words: str) -> list[str]:
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert not stop.value.code
    return capsys.readouterr().out.rstrip().splitlines()


def test_help_is_short_and_ends_with_two_examples(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in COMMANDS:
        lines = help_of(capsys, *name.split(), "--help")
        assert lines[-3] == "examples:"
        assert all(line.startswith(f"  dynlm {name}") for line in lines[-2:])
        assert len(lines) <= 80


def test_help_all_lists_every_option_of_the_sections_used(capsys: Capture) -> None:
    short, full = ("\n".join(help_of(capsys, "score", *words)) for words in (["--help"], ["--help", "all"]))
    assert "`dynlm score --help all` lists" in short and "--memory.rule" in short and "--memory.epsilon" not in short
    assert all(f"--memory.{name}" in full for name in vars(StepOptions())) and "more options" not in full
    assert "--pretrain.epochs" not in full


def test_help_shows_the_runs_values_as_defaults(trained_run: Run, capsys: Capture) -> None:
    shown = "".join("".join(help_of(capsys, "score", str(trained_run.folder), "--help")).split())  # paths are wrapped
    assert f"(default:{trained_run.corpus})" in shown


def test_an_option_of_a_section_that_a_command_does_not_use_is_refused(trained_run: Run, capsys: Capture) -> None:
    line = refused(capsys, "score", trained_run.folder, "--pretrain.epochs", "3")
    assert "--pretrain.epochs is not used by this command" in line


def test_a_config_file_may_hold_sections_that_a_command_does_not_use(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("pretrain: {epochs: 3}\ncorpus: {limit: 2}\n")
    assert yaml.safe_load(printed_config(capsys, "corpus", "--config", path))["corpus"]["limit"] == 2
    path.write_text("pretrain: {epochs: -3}\n")
    assert f"{path}: pretrain.epochs is -3" in refused(capsys, "corpus", "--config", path)


# --- Bad input -------------------------------------------------------------------------------------------------------


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda corpus: write(corpus / name, change((corpus / name).read_bytes()))


def one_token_article(corpus: Path) -> None:
    shutil.rmtree(corpus)
    corpus.mkdir()
    rng = np.random.default_rng(0)
    good = [{"title": f"Good {k}", "text": article(rng, 10)} for k in range(12)]
    write(corpus / "train.jsonl", b"".join(json.dumps(record).encode() + b"\n" for record in good))
    write(corpus / "valid.jsonl", b'{"title": "Dot", "text": "."}\n')


BAD_CORPORA: list[tuple[str, Callable[[Path], None], list[str]]] = [
    ("missing folder", shutil.rmtree, ["no such file or folder"]),
    ("empty folder", lambda corpus: [path.unlink() for path in corpus.iterdir()], ["no "]),  # type: ignore[arg-type, return-value]
    ("empty train", damaged("train.txt", lambda _: b""), ["no articles", "train"]),
    ("empty valid", damaged("valid.txt", lambda _: b""), ["no articles", "valid"]),
    ("blank valid", damaged("valid.txt", lambda _: b" \n \n"), ["no articles", "valid"]),
    ("no UTF-8", damaged("train.txt", lambda b: b[:500] + b"\xff" + b[500:]), ["train.txt:", "byte 500 (0xff)"]),
    ("NUL", damaged("valid.txt", lambda b: b[:600] + b"\0" + b[600:]), ["valid.txt:", "NUL character at byte 600"]),
    ("long line", damaged("train.txt", lambda b: b + b"word " * (17 * 2**18)), ["train.txt:", "longer than 16 MiB"]),
    ("one token", one_token_article, ["valid.jsonl", "fewer than 2 tokens"]),
]


@pytest.mark.parametrize("damage, said", [pytest.param(d, s, id=name) for name, d, s in BAD_CORPORA])
def test_a_bad_corpus_is_refused_by_its_place(
    damage: Callable[[Path], None],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    damage(corpus)
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path / "cache"))
    line = refused(capsys, "pretrain", *tiny_options(corpus, tmp_path / "runs", tmp_path))
    assert str(corpus) in line
    assert all(part in line for part in said), line
    assert not (tmp_path / "runs").exists()
    assert not hidden_files(tmp_path)


def hidden_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


def test_a_line_of_50_mb_does_not_fill_the_memory(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "book.txt"
    with path.open("wb") as file:
        file.truncate(50 * 2**20)
    assert "book.txt:1" in refused(capsys, "corpus", "--corpus.path", path)


BAD_OPTIONS: list[tuple[list[str], list[str]]] = [
    (["sing"], ["no command 'sing'"]),
    (["pretrain", "--pretrain.depth", "3"], ["pretrain.depth"]),
    (["pretrain", "--pretrain.lanes", "many"], ["pretrain.lanes"]),
    (["pretrain", "--pretrain.lanes", "0"], ["pretrain.lanes is 0"]),
    (["pretrain", "--tokenizer.kind", "letters"], ["tokenizer.kind is 'letters'"]),
    (["pretrain", "--config", "no-such.yaml"], ["no-such.yaml"]),
    (["pretrain", "--run.name", "../elsewhere"], ["run.name"]),
    (["corpus", "--corpus.source", "library"], ["corpus.source is 'library'"]),
    (["tune"], ["required: RUN"]),
    (["tune", "no-such-run"], ["no-such-run: no such run"]),
    (["compare", "no-such.parquet"], ["no-such.parquet"]),
    (["heatmap", "no-such.parquet"], ["no-such.parquet"]),
    (["compare"], ["required: FILE"]),
]


@pytest.mark.parametrize("arguments, said", BAD_OPTIONS, ids=lambda value: " ".join(value) if value else "")
def test_bad_options_are_refused(
    arguments: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, *arguments)
    assert all(part in line for part in said), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content, said",
    [
        ("pretrain:\n  lane: 3\n", "lane"),
        ("prtrain:\n  lanes: 3\n", "prtrain"),
        ("run: [\n", "tiny.yaml"),
        ("3\n", "tiny.yaml"),
    ],
)
def test_an_unknown_key_of_a_config_file_is_refused(content: str, said: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(content)
    for options in (["--config", path], [f"--config={path}", "--run.name", "other"]):
        line = refused(capsys, "pretrain", *options)
        assert said in line and str(path) in line


def cut(path: Path, share: float = 0.5) -> None:
    """Cut a file short within a line: YAML that ends with one is whole."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)].rstrip(b"\n"))


@pytest.mark.parametrize("verb", ["score", "tune", "metatrain", "finetune", "generate", "check"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "tokenizer/tokenizer.model", "config.yaml"])
def test_a_run_cut_short_is_refused_by_every_verb(verb: str, name: str, tuned_copy: Run, capsys: Capture) -> None:
    cut(tuned_copy.folder / name)
    before = listing(tuned_copy.folder)
    assert name.partition("/")[0] in refused(capsys, verb, tuned_copy.folder)
    assert listing(tuned_copy.folder) == before


def test_where_no_checkpoint_is_whole_training_begins_anew(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from dynlm.train import pretrain_loop

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    options = tiny_options(tiny_corpus, tmp_path / "runs", tmp_path)
    options += ["--pretrain.checkpoint_every", "2", "--pretrain.validate_every", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(pretrain_loop, "validate", stopped)
        assert main(["pretrain", *options]) == 130
    assert "goes on from the newest checkpoint" in capsys.readouterr().err
    checkpoint = tmp_path / "runs" / "tiny" / "checkpoints" / "step-00000002.safetensors"
    cut(checkpoint, 0.9)
    assert answer(capsys, "pretrain", *options)
    log = (tmp_path / "runs" / "tiny" / "log.jsonl").read_text()
    assert '"resumed"' not in log and '"pretrained"' in log


def test_a_tokenizer_that_does_not_fit_is_refused(tuned_copy: Run, capsys: Capture) -> None:
    from dynlm.data.tokenizers.pieces import PieceTokenizer

    shutil.rmtree(tuned_copy.folder / "tokenizer")
    other = PieceTokenizer.train(TokenizerOptions(vocab_size=330), ["colourless green ideas sleep furiously\n" * 9])
    other.save(tuned_copy.folder / "tokenizer")
    before = listing(tuned_copy.folder)
    line = refused(capsys, "score", tuned_copy.folder)
    assert "tokenizer (330 tokens" in line and "does not fit the model" in line
    assert listing(tuned_copy.folder) == before


def test_a_corpus_that_moved_away_is_refused(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    before = listing(tuned_copy.folder)
    assert "gone: no such file or folder" in refused(
        capsys, "score", tuned_copy.folder, "--corpus.path", tmp_path / "gone"
    )
    assert "no split 'dev'" in refused(capsys, "score", tuned_copy.folder, "--split", "dev")
    assert listing(tuned_copy.folder) == before


def test_a_score_file_cut_short_is_refused(tuned_copy: Run, capsys: Capture) -> None:
    scored = answer_json(capsys, "score", tuned_copy.folder, "--memory.rule", "none", "--articles", "1")
    cut(Path(scored["file"]), 0.8)
    before = listing(tuned_copy.folder)
    for verb in ("compare", "plot", "heatmap"):
        assert scored["file"] in refused(capsys, verb, scored["file"])
    assert listing(tuned_copy.folder) == before


def test_a_prompt_that_is_no_text_is_refused(tuned_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert "--prompt" in refused(capsys, "generate", tuned_run.folder, "--prompt", "caf\udce9")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8"))
    assert "standard input" in refused(capsys, "generate", tuned_run.folder, "--prompt", "-")


VERBS_THAT_WRITE: dict[str, list[str]] = {
    "pretrain": [],
    "tune": ["--memory.rule", "rms"],
    "metatrain": [],
    "finetune": ["--memory.rule", "rms", "--finetune.tokens", "200"],
    "score": ["--memory.rule", "none"],
}


def what_writes(verb: str, run: Run, tmp_path: Path) -> list[str]:
    if verb == "pretrain":
        return [verb, *tiny_options(run.corpus, run.folder.parent, tmp_path), "--run.name", "other"]
    return [verb, str(run.folder), *VERBS_THAT_WRITE[verb]]


@pytest.mark.parametrize("verb", VERBS_THAT_WRITE)
def test_a_full_disk_is_said_and_nothing_is_half_written(
    verb: str, tuned_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before = listing(tuned_copy.folder.parent)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = what_writes(verb, tuned_copy, tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    line = refused(capsys, *arguments)
    assert "No space left on device; free some space" in line
    after = listing(tuned_copy.folder.parent)
    del before["tiny/log.jsonl"], after["tiny/log.jsonl"]  # What was measured till then stays in the log.
    assert after == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for little more than a run."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=96k", "dynlm-tests", str(folder)], capture_output=True
    )
    if not done or done.returncode:
        pytest.skip("may not mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(tiny_corpus: Path, small_disk: Path, tmp_path: Path, capsys: Capture) -> None:
    """The weights, and then the token arrays, are larger than what room there is."""
    options = tiny_options(tiny_corpus, small_disk, tmp_path)
    line = refused(capsys, "pretrain", *options)
    assert "free some space" in line
    assert str(small_disk) in line
    assert not hidden_files(small_disk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNLM_CACHE", str(small_disk / "cache"))
        line = refused(capsys, "pretrain", *tiny_options(tiny_corpus, tmp_path / "runs", tmp_path))
    assert "free some space" in line
    assert not hidden_files(small_disk)
    assert not (tmp_path / "runs").exists()


# --- As real processes -----------------------------------------------------------------------------------------------


def test_a_command_runs_as_a_module(tiny_corpus: Path, tmp_path: Path) -> None:
    done = process(sys.executable, "-m", "dynlm", "corpus", "--corpus.path", tiny_corpus, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["train"]["articles"] == 18
    assert not list(tmp_path.iterdir())


def test_the_overview_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; from dynlm.cli.main import main; main([]); sys.exit('torch' in sys.modules)"
    done = process(sys.executable, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: dynlm COMMAND")


@pytest.mark.parametrize("words", [["corpus"], ["score", "--help"], ["pretrain", "--print_config"], ["compare", "x"]])
def test_commands_that_do_not_compute_import_no_torch(words: list[str], tmp_path: Path) -> None:
    code = "import contextlib, sys; from dynlm.cli.main import main\n"
    code += f"with contextlib.suppress(SystemExit): main({words})\nsys.exit('torch' in sys.modules)"
    done = process(sys.executable, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["score", "RUN", "--force"], ["read", "RUN", "own.txt"]], ids=["score", "read"])
def test_reading_imports_nothing_that_it_does_not_use(words: list[str], tuned_run: Run, tmp_path: Path) -> None:
    """Each of these takes a tenth of a second or more: the first token would come later."""
    (tmp_path / "own.txt").write_text("A few words to read.\n")
    shutil.copytree(tuned_run.folder, tmp_path / "runs" / "tiny")
    words = ["tiny" if word == "RUN" else word for word in words]
    unused = {
        "pandas",
        "jinja2",
        "rich",
        "matplotlib",
        "datasets",
        "transformers",
        "accelerate",
        "huggingface_hub",
        "scipy",
    }
    code = f"import sys; from dynlm.cli.main import main; assert main({[*words, '--memory.rule', 'rms']}) == 0\n"
    code += f"print(sorted({unused} & set(sys.modules)), file=sys.stderr)"
    done = process(sys.executable, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_refusal_is_one_line_of_a_real_process(tmp_path: Path) -> None:
    done = process(sys.executable, "-m", "dynlm", "score", "no-such-run", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"dynlm: error: no-such-run: no such run; looked in {tmp_path}, ")
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_launched_process_trains_as_one_called(tiny_corpus: Path, tmp_path: Path) -> None:
    """Several: ``training/test_several_processes``."""
    from dynlm.train.pretrain import pretrain

    steps = {"epochs": 0.4, "log_every": 1, "optimizer": "nt-asgd", "lr": 5.0}
    called = tiny_config(tiny_corpus, tmp_path / "called", pretrain=steps)
    pretrain(called, quiet=True)
    path = tmp_path / "tiny.yaml"
    path.write_text(as_yaml(tiny_config(tiny_corpus, tmp_path / "launched", pretrain=steps)))
    launcher = ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "dynlm", "pretrain"]
    done = process(sys.executable, "-m", *launcher, "--config", path, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = {}
    for name in ("called", "launched"):
        log = (tmp_path / name / "tiny" / "log.jsonl").read_text().splitlines()
        losses[name] = [line["loss"] for line in map(json.loads, log) if "loss" in line]
    assert losses["called"][-1] < losses["called"][0] - 0.2
    assert losses["launched"] == losses["called"]


def launched(verb: str, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Return what a command in two processes said."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    return process(sys.executable, "-m", *launcher, "dynlm", verb, *words, folder=folder)


@pytest.mark.parametrize("rule", ["none", "rms"])
def test_two_processes_share_the_articles_to_be_scored(rule: str, tuned_copy: Run, tmp_path: Path) -> None:
    from dynlm.evaluation.score_file import read_scores

    options = ("--memory.rule", rule, "--memory.reset", "article")
    command = (sys.executable, "-m", "dynlm", "score", tuned_copy.folder, *options, "--json")
    done = process(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["file"])
    alone = read_scores(path)
    path.unlink()
    done = launched("score", tuned_copy.folder, *options, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["file"] == str(path)
    together = read_scores(path)
    assert together.protocol["processes"] == 2
    assert together.token.tolist() == alone.token.tolist()
    assert together.nats.tolist() == pytest.approx(alone.nats.tolist(), rel=1e-4, abs=1e-4)


def test_one_stream_is_not_for_two_processes(tuned_copy: Run, tmp_path: Path) -> None:
    done = launched("score", tuned_copy.folder, "--memory.rule", "rms", folder=tmp_path)
    assert done.returncode != 0
    assert "2 processes cannot share the one stream of memory.reset 'stream'; start one process" in done.stderr
    assert not (tuned_copy.folder / "scores").exists()


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "dynlm", "--help"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert (done.returncode, done.stderr) == (141, "")
