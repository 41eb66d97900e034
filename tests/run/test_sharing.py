"""Which files of a run are shared, and that all of them are downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from dynlm.api import load
from dynlm.run.sharing import PUBLIC_FILES, share_run
from dynlm.runtime.parsing import write_json
from tests.tiny import Run, listing, opened, with_memory

CACHE = {"window": 5, "inverse_temperature": 1.0, "share": 0.1}


def downloaded(folder: Path) -> set[str]:
    return set(filter_repo_objects(listing(folder), allow_patterns=list(PUBLIC_FILES)))


@pytest.mark.parametrize("part", ["", "lora4-0a1b2c/"])
def test_what_was_found_is_shared_and_downloaded(tuned_copy: Run, tmp_path: Path, part: str) -> None:
    memory = tuned_copy.folder / "memory"
    config = with_memory(tuned_copy.config, rule="rms", reset="stream", article_boundaries=False)
    opened(tuned_copy.folder, config).store.save_fixed_cache(config.memory, CACHE)
    found = {f"memory/{part}{path.name}" for path in memory.iterdir()}
    if part:
        memory.rename(tmp_path / "found")
        memory.mkdir()
        (tmp_path / "found").rename(memory / part)
    assert len(found) > 4 and f"memory/{part}cache-rms-stream-joined.json" in found
    load(tuned_copy.folder, rule="none").save_pretrained(tmp_path / "shared")
    shared = listing(tmp_path / "shared").keys()
    assert {name for name in shared if name.startswith("memory")} == found
    assert downloaded(tmp_path / "shared") == shared


@pytest.mark.parametrize("folder", ["memory", "memory/lora4-0a1b2c"])
def test_other_files_of_a_memory_folder_are_not_shared(tuned_copy: Run, tmp_path: Path, folder: str) -> None:
    model = load(tuned_copy.folder, rule="rms")
    model.read("the secret word is xyzzy\n" * 5)
    path = tuned_copy.folder / folder
    path.mkdir(exist_ok=True)
    model.save_memory(path / "mine-stream.safetensors")
    write_json(path / "mine-stream.json", {"model": "m", "secret": "xyzzy"})
    share_run(tuned_copy.folder, tmp_path / "shared")
    assert not any("mine" in name or b"xyzzy" in content for name, content in listing(tmp_path / "shared").items())


def test_packed_models_are_downloaded_whole() -> None:
    models = [path.parent for path in (Path(__file__).parents[2] / "data" / "models").glob("*/checksums.json")]
    assert models
    for folder in models:
        assert downloaded(folder) == listing(folder).keys()
