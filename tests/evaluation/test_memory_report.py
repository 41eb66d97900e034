"""What is told of memory files: how far weights have moved, and how two memories differ."""

import dataclasses

import pytest
import torch

from dynlm.adapt import memory_file
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.memory_file import SavedMemory, load_about, save_memory
from dynlm.adapt.options import StepOptions
from dynlm.errors import UserError
from dynlm.evaluation.memory_report import diff, show
from tests.adapt.readings import NAMES, dynamic_model, stream
from tests.golden.commands import FOLDER

OPTIONS = StepOptions(rule="rms")


@pytest.fixture
def files(tmp_path):
    """Return the model, its last memory, and files of a fresh and of the last memory."""
    chosen = dynamic_model("rms", dtype=torch.float32)
    *_, read = iter_segments(chosen, stream())
    paths = [tmp_path / f"{name}.safetensors" for name in ("fresh", "read")]
    for path, memory in zip(paths, (chosen.fresh_memory(), read.memory), strict=True):
        save_memory(path, SavedMemory(memory, 62, 3), chosen, OPTIONS, "0123456789abcdef")
    return chosen, read.memory, *paths


def distances(chosen, memory):
    return {name: float((memory.params[name][0] - chosen.static[name]).square().mean().sqrt()) for name in NAMES}


def test_moved_weights_are_shown(files):
    chosen, memory, fresh, path = files
    shown = show(path)
    assert shown["moved"] == pytest.approx(distances(chosen, memory)) and min(shown["moved"].values()) > 0
    assert (shown["tokens"], shown["articles"], shown["parts"]) == (62, 3, ["params", "state"])
    assert set(show(fresh)["moved"].values()) == {0.0}


def test_two_memories_differ_by_their_weights(files):
    chosen, memory, fresh, path = files
    found = diff(fresh, path)
    assert found["apart"] == pytest.approx(distances(chosen, memory)) and not found["equal"]
    assert diff(path, path)["equal"] and set(diff(path, path)["apart"].values()) == {0.0}


def test_a_file_of_format_1_is_shown_and_compared(files):
    *_, path = files
    about, tensors = load_about(path)
    old = path.with_name("old.safetensors")
    renamed = {n.replace("params/", "weights/").replace("state/", "hidden/"): t.clone() for n, t in tensors.items()}
    memory_file._write(old, dataclasses.replace(about, format=1), renamed)
    assert show(old)["moved"] == show(path)["moved"]
    assert diff(old, path)["equal"]


def test_the_golden_memory_is_shown():
    shown = show(FOLDER / "me.safetensors")
    assert len(shown["moved"]) == 8 and min(shown["moved"].values()) > 0
    assert shown["parts"] == ["cache", "filter", "mixture", "params", "state"]


def test_memories_of_two_models_are_refused(files):
    chosen, memory, fresh, path = files
    save_memory(path, SavedMemory(memory, 62, 3), chosen, OPTIONS, "fedcba9876543210")
    with pytest.raises(UserError, match="two models"):
        diff(fresh, path)
