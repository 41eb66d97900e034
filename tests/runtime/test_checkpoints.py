"""Checkpoints: saved state is loaded, damaged files are named and skipped, those of other options are refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dynlm.errors import UserError
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints, State, _checksum
from dynlm.runtime.signals import Stopped
from dynlm.runtime.tensors import load_tensors, save_tensors

STATE = {"place": [1, 2], "nats": 0.1 + 0.2, "running": float("inf"), "name": "Straße"}


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        "weights/a": torch.full((2, 3), value, dtype=torch.float64).T,
        "step": torch.tensor(value),
        "empty": torch.zeros(0, 3),
        "one of a row": torch.arange(6)[None][:, 3],
        "random": torch.Generator().manual_seed(3).get_state(),
    }


def saved(folder: Path, *numbers: int, **options: object) -> Checkpoints:
    checkpoints = Checkpoints(folder, **options)  # type: ignore[arg-type]
    for number in numbers:
        checkpoints.save(number, tensors(float(number)), {**STATE, "number": number})
    return checkpoints


def test_saved_state_is_loaded_exactly(tmp_path: Path) -> None:
    found = saved(tmp_path, 7).newest()
    assert found is not None
    assert (found.number, found.state) == (7, {**STATE, "number": 7})
    assert found.tensors.keys() == tensors().keys()
    for name, tensor in tensors(7.0).items():
        assert torch.equal(found.tensors[name], tensor) and found.tensors[name].dtype == tensor.dtype
        # Sums over what was loaded are to be those over what was saved, bit for bit.
        assert found.tensors[name].data_ptr() % 64 == 0
    found.path.unlink()
    assert float(found.tensors["step"]) == 7


@pytest.mark.parametrize("kept", [1, 3])
def test_only_the_newest_files_are_kept(kept: int, tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 2, 4, 99_999_999, 100_000_000, kept=kept)
    assert [int(path.stem.split("-")[1]) for path in checkpoints.paths()] == [4, 99_999_999, 100_000_000][-kept:]
    assert len(list(tmp_path.iterdir())) == kept


def test_stems_are_independent(tmp_path: Path) -> None:
    ours, theirs = saved(tmp_path, 1, 2, stem="g"), saved(tmp_path, 5, stem="g-all")
    (tmp_path / "g-notes.safetensors").write_text("")
    assert [path.name for path in ours.paths()] == ["g-00000001.safetensors", "g-00000002.safetensors"]
    ours.drop()
    found = theirs.newest()
    assert found is not None and found.number == 5
    assert ours.newest() is None
    assert Checkpoints(tmp_path / "nowhere").newest() is None


def torn(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how.startswith("cut"):
        content = content[: int(float(how[3:]) * len(content))]
    elif how == "zeros":
        content = bytes(len(content))
    elif how == "longer":
        content += b"\0"
    else:
        place, flipped = int(float(how[4:]) * (len(content) - 1)), bytearray(content)
        flipped[place] ^= 16
        content = bytes(flipped)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "how",
    [f"cut {share}" for share in (0.0, 0.01, 0.3, 0.7, 0.9999)]
    + [f"bit {share}" for share in (0.0, 0.002, 0.01, 0.05, 0.1, 0.2, 0.5, 0.9, 1.0)]
    + ["zeros", "longer"],
)
def test_a_damaged_file_is_named_and_skipped(how: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    torn(checkpoints.paths()[-1], how)
    found = checkpoints.newest()
    assert found is not None and found.number == 1
    said = capsys.readouterr().err
    assert said.startswith(f"dynlm: warning: {tmp_path / 'step-00000002.safetensors'}: not a whole")
    assert said.count("\n") == 1
    assert checkpoints.newest(quiet=True) is not None and capsys.readouterr().err == ""
    torn(checkpoints.paths()[0], how)
    assert checkpoints.newest() is None
    assert capsys.readouterr().err.count("\n") == 2
    # The work goes over it, and what it saves is whole.
    checkpoints.save(2, tensors(), STATE)
    found = checkpoints.newest()
    assert found is not None and found.number == 2


def test_every_flipped_bit_is_detected_or_changes_nothing(tmp_path: Path) -> None:
    """Only padding of the header, and other spellings of the same value, may differ."""
    checkpoints = saved(tmp_path, 1)
    (path,) = checkpoints.paths()
    whole, before = path.read_bytes(), checkpoints.newest()
    assert before is not None
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        if (found := checkpoints.newest(quiet=True)) is not None:
            assert found.state == before.state
            assert all(torch.equal(found.tensors[name], tensor) for name, tensor in before.tensors.items())


@pytest.mark.parametrize("about", [{}, {"content": "{}"}, {"content": 3, "checksum": ""}, "{}", "[]", '{"state": 3}'])
def test_tensors_that_are_no_checkpoint_are_skipped(about: object, tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    if isinstance(about, str):
        about = {"content": about, "checksum": _checksum(tensors(), about)}
    save_tensors(tmp_path / "step-00000002.safetensors", tensors(), about)  # type: ignore[arg-type]
    found = checkpoints.newest()
    assert found is not None and found.number == 1


def test_a_checkpoint_of_other_options_is_refused_by_name(tmp_path: Path) -> None:
    made_with = {"g.features": ("doc_age_20",), "rate": 0.1, "seed": None}
    saved(tmp_path, 1, made_with=made_with)
    assert Checkpoints(tmp_path, made_with=made_with).newest() is not None
    for name, value in (("g.features", ["doc_age_20", "loss_delta"]), ("rate", 0.2), ("seed", 1), ("more", 2)):
        other = Checkpoints(tmp_path, made_with={**made_with, name: value})
        with pytest.raises(UserError, match=rf"-00000001\.safetensors: .* made with {name} .*, not .*; use the same"):
            other.newest()
    with pytest.raises(UserError, match="made with rate 0.1, not None"):
        Checkpoints(tmp_path, made_with={"g.features": ["doc_age_20"], "seed": None}).newest()


def test_a_killed_writer_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """Killed between writing and renaming; the next save, or drop, removes the staging folder."""
    code = """
import os, signal, sys
from pathlib import Path
import torch
from dynlm.runtime.checkpoints import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save(1, {"a": torch.ones(3)}, {})
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
checkpoints.save(2, {"a": torch.ones(3)}, {})
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == -signal.SIGKILL
    (left,) = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert (left / "step-00000002.safetensors").stat().st_size > 0
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.newest()
    assert found is not None and found.number == 1
    shutil.copytree(left, tmp_path / "again")
    checkpoints.save(2, tensors(), {})
    assert not left.exists()
    (tmp_path / "again").rename(left)
    checkpoints.drop()
    assert not list(tmp_path.iterdir())


def test_the_checksum_covers_tensors_and_json(tmp_path: Path) -> None:
    """A valid safetensors file with one number changed is detected by the checksum alone."""
    checkpoints = saved(tmp_path, 1, 2)
    path = checkpoints.paths()[-1]
    held, about = load_tensors(path)
    held = {name: tensor.clone() for name, tensor in held.items()}
    held["weights/a"][1, 1] += 1e-12
    save_tensors(path, held, about)
    found = checkpoints.newest()
    assert found is not None and found.number == 1
    save_tensors(path, tensors(2.0), {**about, "content": json.dumps({"made_with": {}, "state": {}})})
    found = checkpoints.newest()
    assert found is not None and found.number == 1


class Counter:
    """Work whose state is one number."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> State:
        return State({"lanes/value": torch.tensor([self.value])}, {"value": self.value})

    def load_state_dict(self, state: State) -> None:
        self.value = state.values["value"]
        assert state.tensors["lanes/value"].tolist() == [self.value]


def work_on(counter: Counter, checkpointer: Checkpointer, steps: int, stopped_at: int = 0) -> None:
    with checkpointer:
        checkpointer.resume()
        while counter.value < steps:
            counter.value += 1
            if counter.value == stopped_at:
                os.kill(os.getpid(), signal.SIGTERM)
            checkpointer.after_step(counter.value, last=counter.value == steps)


@pytest.mark.parametrize(
    "every, seconds, numbers", [(2, 0.0, [2, 4, 5]), (0, 0.0, [1, 2, 3, 4, 5]), (0, 1e9, [5]), (9, 0.0, [5])]
)
def test_a_checkpointer_saves_when_it_is_due_and_at_the_end(
    every: int, seconds: float, numbers: list[int], tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path, kept=9)
    counter = Counter()
    work_on(counter, Checkpointer(checkpoints, counter, None, every, seconds), 5)
    assert [int(path.stem[-8:]) for path in checkpoints.paths()] == numbers


def test_work_that_is_stopped_saves_its_last_step_and_resumes_there(tmp_path: Path) -> None:
    checkpoints, counter, resumed = Checkpoints(tmp_path), Counter(), Counter()
    with pytest.raises(Stopped) as stopped:
        work_on(counter, Checkpointer(checkpoints, counter, every=100), 9, stopped_at=4)
    assert stopped.value.saved == tmp_path / "step-00000004.safetensors"
    assert stopped.value.exit_code == 143 and counter.value == 4
    checkpointer = Checkpointer(checkpoints, resumed)
    assert checkpointer.resume() == tmp_path / "step-00000004.safetensors" and resumed.value == 4


def test_without_checkpoints_work_is_stopped_all_the_same() -> None:
    counter = Counter()
    with pytest.raises(Stopped) as stopped:
        work_on(counter, Checkpointer(None, counter), 9, stopped_at=4)
    assert stopped.value.saved is None and counter.value == 4
