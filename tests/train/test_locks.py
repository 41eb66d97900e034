"""Several processes that write one file or one run: the second waits or is refused in one line, and nothing is lost."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dynlm.adapt.memory_file import load_about
from dynlm.errors import UserError
from dynlm.run.folder import load_model
from dynlm.runtime.files import exclusive
from dynlm.train.config import load_config
from dynlm.train.pretrain import checkpoints_of, pretrain
from tests.cli.commands import Capture, answer, answer_json, refused
from tests.tiny import Run, as_yaml, listing, tiny_config, with_memory
from tests.trainings import finetune, metatrain, train_gate

TEXT = " the bafidela of the town was seen near a bafidela .\n"
HOLDS = """
import sys
from dynlm.runtime.files import exclusive
with exclusive(sys.argv[1], "it"):
    print("held", flush=True)
    sys.stdin.readline()
"""
TUNES = """
import sys, types
from pathlib import Path
from dynlm.run.memory_store import MemoryStore
model = types.SimpleNamespace(label="", dynamic_tensors=tuple)
store = MemoryStore(Path(sys.argv[1]), types.SimpleNamespace(fingerprint="m", model=model))
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 20):
    store.save_tuned(f"rule{number}", "stream", {"rate": 1.0})
"""


def child(source: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def held_by_another(path: Path) -> Iterator[subprocess.Popen[str]]:
    with child(HOLDS, path) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_one_process_at_a_time_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    with held_by_another(path) as process:
        with pytest.raises(UserError, match="it is in use by another process; wait"), exclusive(path, "it"):
            raise AssertionError("both are within")
        with exclusive(path.with_name("other"), "another"):
            process.kill()
        process.wait()
        with exclusive(path, "it"):
            pass


def test_who_waits_long_enough_gets_it(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "file") as process:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        with exclusive(tmp_path / "file", "it", seconds=20):
            pass


def test_a_process_may_enter_again_and_holds_it_to_the_outer_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with exclusive(path, "it"):
        with exclusive(path, "it"):
            pass
        with child(HOLDS, path) as process:
            assert process.communicate()[0] == "" and process.returncode != 0
    with held_by_another(path):
        pass


def test_what_many_processes_tune_is_all_kept(tmp_path: Path) -> None:
    processes = [child(TUNES, tmp_path, 20 * number) for number in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    content = json.loads((tmp_path / "memory" / "tuned.json").read_text())
    assert len(content) == 1 + 60


def test_two_readings_into_one_memory_are_both_kept(tuned_copy: Run, tmp_path: Path) -> None:
    me, processes = tmp_path / "me.safetensors", []
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text(TEXT * (20 + number))
        command = [sys.executable, "-m", "dynlm", "read", str(tuned_copy.folder)]
        command += ["--memory", str(me), str(tmp_path / f"{number}.txt")]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=120)[1] for process in processes]
    done = [process.returncode for process in processes]
    assert done.count(0) == load_about(me)[0].articles and set(done) <= {0, 2}
    assert all("in use by another process" in text for text, code in zip(said, done, strict=True) if code)


@pytest.mark.parametrize("linked", [False, True])
def test_a_memory_that_is_being_changed_is_left_alone(
    linked: bool, tuned_copy: Run, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynlm.adapt.memory_file._SECONDS_TO_WAIT", 0.1)
    me, named, book = tmp_path / "me.safetensors", tmp_path / "me.safetensors", tmp_path / "book.txt"
    book.write_text(TEXT * 4)
    answer(capsys, "read", tuned_copy.folder, "--memory", me, book)
    before = me.read_bytes()
    if linked:
        (named := tmp_path / "link").symlink_to(me)
    with held_by_another(me):
        for verb in (["read", tuned_copy.folder, "--memory", named, book], ["memory", "reset", named]):
            assert "this memory is in use by another process" in refused(capsys, *verb)
    assert me.read_bytes() == before


def test_a_memory_is_its_owners_and_keeps_its_mode_and_place(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    me, book = tmp_path / "there" / "me.safetensors", tmp_path / "book.txt"
    book.write_text(TEXT * 4)
    (link := tmp_path / "link.safetensors").symlink_to(me)
    answer(capsys, "read", tuned_copy.folder, "--memory", link, book)
    assert stat.S_IMODE(me.stat().st_mode) == 0o600 and link.is_symlink()
    os.chmod(me, 0o640)
    answer(capsys, "read", tuned_copy.folder, "--memory", link, "--again", book)
    assert stat.S_IMODE(me.stat().st_mode) == 0o640 and link.is_symlink()
    assert load_about(me)[0].articles == 2
    answer(capsys, "memory", "reset", link)
    assert stat.S_IMODE(me.stat().st_mode) == 0o640 and link.is_symlink() and load_about(me)[0].tokens == 0


def test_a_reading_that_is_repeated_is_learned_once(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    me, book = tmp_path / "me.safetensors", tmp_path / "book.txt"
    book.write_text(TEXT * 4)
    read = ("read", tuned_copy.folder, "--memory", me, book)
    assert not answer_json(capsys, *read)["repeated"]
    before = me.read_bytes()
    repeated = answer_json(capsys, *read)
    assert repeated["repeated"] and repeated["tokens"] == 0 and me.read_bytes() == before
    assert answer_json(capsys, *read, "--again")["memory"]["articles"] == 2
    book.write_text(TEXT * 5)
    assert not answer_json(capsys, *read)["repeated"]


def test_a_memory_that_reads_worse_than_none_is_warned_of(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    me, book = tmp_path / "me.safetensors", tmp_path / "book.txt"
    book.write_text(TEXT * 4)
    folder = tuned_copy.folder
    bad = (
        "read",
        folder,
        "--memory",
        me,
        "--memory.rule",
        "sgd",
        "--memory.lr",
        "40",
        "--memory.update_filter",
        "false",
    )
    from dynlm.cli.main import main

    assert main([*map(str, bad), "--memory.no_regret", "false", str(book)]) == 0
    said = capsys.readouterr()
    assert "nats per token more than without" in said.err and "(static model: " in said.out
    assert "begin a memory with --memory.no_regret true" in said.err
    me.unlink()
    # Unless that is refused, a new memory is read without regret.
    assert main([*map(str, bad), "--json", str(book)]) == 0
    said = capsys.readouterr()
    mixed = json.loads(said.out)
    assert mixed["nats_per_token"] - mixed["level_1_nats_per_token"] <= math.log(2) / mixed["tokens"] + 5.1e-4
    assert "warning" not in said.err
    other = tmp_path / "other.safetensors"
    told = answer_json(capsys, "read", folder, "--memory", other, "--memory.rule", "none", book)
    assert told["level_1_nats_per_token"] == told["nats_per_token"]
    learned = answer_json(capsys, "read", folder, "--memory", tmp_path / "good.safetensors", book)
    assert learned["level_1_nats_per_token"] == pytest.approx(told["nats_per_token"], abs=1e-5)
    assert learned["nats_per_token"] < learned["level_1_nats_per_token"]


def test_a_reading_that_costs_no_number_is_not_kept(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    me, book = tmp_path / "me.safetensors", tmp_path / "book.txt"
    book.write_text(TEXT * 4)
    cache = ("--memory.cache", "fixed", "--memory.cache_window", "50", "--memory.cache_share", "0.1")
    read = ("read", tuned_copy.folder, "--memory", me, "--memory.rule", "none", *cache)
    tuned = tuned_copy.folder / "memory" / "cache-none-stream.json"
    model = json.loads((tuned_copy.folder / "model.json").read_text())["fingerprint"]
    tuned.write_text(json.dumps({"model": model, "window": 50, "inverse_temperature": 1e300, "share": 0.1}))
    assert "its inverse_temperature is 1e+300" in refused(capsys, *read, book)
    assert not me.exists()
    tuned.unlink()
    refused(capsys, *read, "--memory.cache_inverse_temperature", "[1e300]", book)
    assert not me.exists()


def test_a_run_is_trained_by_one_process_at_a_time(tiny_corpus: Path, tmp_path: Path) -> None:
    rates = ("0.02", "0.03")
    processes = []
    for rate in rates:
        config = tmp_path / f"{rate}.yaml"
        epochs = {"epochs": 1.0, "lr": float(rate)}
        config.write_text(as_yaml(tiny_config(tiny_corpus, tmp_path / "runs", pretrain=epochs)))
        command = [sys.executable, "-m", "dynlm", "pretrain", "--config", str(config)]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=200)[1] for process in processes]
    done = [process.returncode for process in processes]
    assert sorted(done) == [0, 2]
    winner = done.index(0)
    assert load_config(tmp_path / "runs" / "tiny").pretrain.lr == float(rates[winner])
    load_model(tmp_path / "runs" / "tiny")
    assert "dynlm: " in said[1 - winner].splitlines()[-1]


@pytest.mark.parametrize("verb", ["pretrain", "metatrain", "finetune", "gate"])
def test_training_that_another_process_does_is_refused(verb: str, tuned_copy: Run, tmp_path: Path) -> None:
    folder, before = tuned_copy.folder, listing(tuned_copy.folder)
    config = tuned_copy.config
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, folder=str(folder.parent)))
    held, does = {
        "pretrain": (folder, lambda: pretrain(config, quiet=True)),
        "metatrain": (folder / "memory" / "meta-stream", lambda: metatrain(folder, config)),
        "finetune": (
            folder.parent / "tiny-finetuned-rms",
            lambda: finetune(folder, with_memory(config, rule="rms")),
        ),
        "gate": (
            folder / "memory" / "gated-cache-rms-stream",
            lambda: train_gate(folder, with_memory(config, rule="rms", cache="learned")),
        ),
    }[verb]
    with held_by_another(held), pytest.raises(UserError, match="in use by another process"):
        does()
    assert listing(folder) == before


def test_a_config_is_written_only_after_its_checkpoint_was_loaded(run_copy: Run) -> None:
    folder = run_copy.folder
    config = tiny_config(run_copy.corpus, folder.parent, pretrain={"epochs": 1.0, "checkpoint_every": 2})
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, name="broken"))
    broken = folder.parent / "broken"
    made = checkpoints_of(config)
    made.save(2, {"a": torch.zeros(1)}, {})
    other = dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, lr=0.5))
    with pytest.raises(UserError, match=r"pretrain\.lr"):
        pretrain(other, quiet=True)
    assert not (broken / "config.yaml").exists() and not (broken / "tokenizer").exists()
