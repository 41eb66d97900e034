"""dynlm from Python: read, generate, save and share, without network access."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import yaml

import dynlm
from dynlm.errors import UserError
from dynlm.evaluation.session import Session
from dynlm.run.sharing import share_run
from dynlm.train.config import Config, load_config
from tests.test_repository import python
from tests.tiny import Run, generated, listing, scored, with_memory

TEXT = " the bafidela of the town was seen near a bafidela .\n" * 6
HOSTILE = "<script>alert(1)</script> [x](javascript:1) | `` ` \u202e\x00 https://evil.example &lt;"


def test_import_does_not_import_torch() -> None:
    done = python("-c", "import dynlm, sys; assert 'torch' not in sys.modules; assert dynlm.__version__")
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        dynlm.lode  # noqa: B018


def test_read_returns_each_tokens_loss_before_it_was_learned_from(tuned_run: Run) -> None:
    model = dynlm.load(tuned_run.folder, rule="rms")
    first = model.read(TEXT)
    again = model.read(TEXT)
    assert "".join(surface for surface, _ in first) == TEXT
    assert len(first) == len(again) == model.tokens_read / 2
    assert again.total < first.total
    model.forget()
    assert model.tokens_read == 0
    assert np.array_equal(model.read(TEXT).nats, first.nats)
    assert dynlm.load(tuned_run.folder, rule="none").read(TEXT).nats[:20].tobytes() == first.nats[:20].tobytes()


def test_an_unfinished_article_is_continued(tuned_run: Run) -> None:
    whole, model = (dynlm.load(tuned_run.folder) for _ in range(2))
    reported = whole.read(TEXT)
    parts = [model.read(TEXT[:100], unfinished=True), model.read(TEXT[100:])]
    assert np.array_equal(np.concatenate([part.nats for part in parts]), reported.nats)


def test_generating_leaves_the_memory_as_it_was(tuned_run: Run, tmp_path: Path) -> None:
    model = dynlm.load(tuned_run.folder)
    model.read(TEXT)
    model.save_memory(tmp_path / "before.safetensors")
    texts = [model.generate(" the", tokens=12, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    model.save_memory(tmp_path / "after.safetensors")
    assert (tmp_path / "before.safetensors").read_bytes() == (tmp_path / "after.safetensors").read_bytes()
    path = tmp_path / "after.safetensors"
    by_verb = generated(tuned_run.folder, tuned_run.config, " the", 12, memory_file=path)
    assert by_verb == model.generate(" the", tokens=12, seed=tuned_run.config.run.seed)
    with pytest.raises(UserError, match="tokens is 0"):
        model.generate(tokens=0)


def test_a_memory_is_saved_and_loaded(tuned_run: Run, tmp_path: Path) -> None:
    path = tmp_path / "me.safetensors"
    model = dynlm.load(tuned_run.folder, rule="meta", segment=10)
    model.read(TEXT)
    model.save_memory(path)
    other = dynlm.load(tuned_run.folder, rule="rms")
    other.load_memory(path)
    assert (other.options.rule, other.options.segment, other.tokens_read) == ("meta", 10, model.tokens_read)
    assert np.array_equal(other.read(TEXT).nats, model.read(TEXT).nats)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a whole"):
        other.load_memory(path)
    assert np.array_equal(other.read(TEXT).nats, model.read(TEXT).nats)


def test_an_interrupted_reading_leaves_the_memory(tuned_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = (dynlm.load(tuned_run.folder) for _ in range(2))
    read = Session.read

    def interrupted(*arguments: Any, **named: Any) -> Any:
        read(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.read(TEXT)
    assert np.array_equal(model.read(TEXT).nats, other.read(TEXT).nats)


def test_missing_runs_and_options_are_refused(tuned_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        dynlm.load(tmp_path / "none")
    with pytest.raises(UserError, match=r"memory has no option 'rules' \(did you mean rule\?\)"):
        dynlm.load(tuned_run.folder, rules="rms")
    with pytest.raises(UserError, match=r"memory\.lanes is 2"):
        dynlm.load(tuned_run.folder, rule="none", lanes=2)


def hostile_run(run: Run) -> Config:
    """Score two variants of the run under a hostile name; return its options."""
    for rule in ("none", "rms"):
        scored(run.folder, with_memory(run.config, rule=rule), "1-2", overrides={"run": HOSTILE})
    return load_config(run.folder)


def test_a_shared_model_equals_its_run(tuned_copy: Run, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    hostile_run(tuned_copy)
    model, place = dynlm.load(tuned_copy.folder), tmp_path / "shared"
    model.read(TEXT)
    model.save_pretrained(place)
    shared = dynlm.DynamicLM.from_pretrained(place)
    assert shared.fingerprint == model.fingerprint
    assert shared.tokens_read == 0
    model.forget()
    for options in ({}, {"rule": "meta"}, {"rule": "sgd", "reset": "article"}):
        one, other = dynlm.load(tuned_copy.folder, **options), dynlm.DynamicLM.from_pretrained(place, **options)
        assert np.array_equal(one.read(TEXT).nats, other.read(TEXT).nats)
    names = set(listing(place))
    assert {"README.md", "config.json", "config.yaml", "model.json", "model.safetensors"} <= names
    assert not any(
        name.startswith(("scores", "checkpoints", "log")) or ".pkl" in name or ".bin" in name for name in names
    )
    card = (place / "README.md").read_text(encoding="utf-8")
    assert "nats/token" in card and "| rms " in card and f"{shared._session.trained.card['parameters']:,}" in card
    assert (tuned_copy.folder / "model.safetensors").read_bytes() == (place / "model.safetensors").read_bytes()
    # It is shared on as it was.
    shared.save_pretrained(tmp_path / "again")
    assert set(listing(tmp_path / "again")) == names


def test_local_paths_are_not_shared(tuned_copy: Run, tmp_path: Path) -> None:
    hostile_run(tuned_copy)
    dynlm.load(tuned_copy.folder).save_pretrained(tmp_path / "shared")
    for name, content in listing(tmp_path / "shared").items():
        assert str(tuned_copy.corpus).encode() not in content, name
        assert str(tuned_copy.folder.parent).encode() not in content, name
    config = yaml.safe_load((tmp_path / "shared" / "config.yaml").read_text())
    assert config["corpus"]["path"] == tuned_copy.corpus.name


def test_a_run_is_not_shared_over_itself(tuned_copy: Run) -> None:
    before = listing(tuned_copy.folder)
    with pytest.raises(UserError, match="the run itself"):
        share_run(tuned_copy.folder, tuned_copy.folder)
    assert listing(tuned_copy.folder) == before


def test_pushing_uploads_just_that(tuned_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: dict[str, Any] = {}

    class Hub:
        def __init__(self, token: str | None = None):
            uploaded["token"] = token

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
            uploaded.update(repo_id=repo_id, files=listing(folder_path))
            return "done"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    model = dynlm.load(tuned_copy.folder)
    model.read(TEXT)
    assert model.push_to_hub("somebody/tiny", token="t") == "done"
    model.save_pretrained(tmp_path / "local")
    assert uploaded == {"token": "t", "repo_id": "somebody/tiny", "files": listing(tmp_path / "local")}


def test_only_the_files_of_a_run_are_downloaded(
    tuned_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynlm.load(tuned_copy.folder).save_pretrained(tmp_path / "shared")
    asked: dict[str, Any] = {}

    def snapshot(repo_id: str, **options: Any) -> str:
        asked.update(repo_id=repo_id, **options)
        return str(tmp_path / "shared")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr(
        "huggingface_hub.hub_mixin.hf_hub_download", lambda **options: str(tmp_path / "shared" / "config.json")
    )
    model = dynlm.DynamicLM.from_pretrained("somebody/tiny", revision="v1", rule="sgd")
    assert (asked["repo_id"], asked["revision"], model.options.rule) == ("somebody/tiny", "v1", "sgd")
    assert not any("py" in pattern or pattern == "*" for pattern in asked["allow_patterns"])


def test_the_command_line_does_not_import_the_hub() -> None:
    done = python("-c", "import dynlm.cli.main, sys; assert not {'torch', 'huggingface_hub'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr
    assert isinstance(done, subprocess.CompletedProcess) and sys.executable


@pytest.mark.parametrize(
    "name",
    [
        "memory/me.safetensors",
        "memory/meta-stream.safetensors",
        "memory/mine-article.safetensors",
        "memory/statistics.safetensors",
        "memory/gated-cache-rms-stream.safetensors",
        "me.safetensors",
        "tokenizer/me.safetensors",
    ],
)
@pytest.mark.parametrize("unfinished", [False, True])
def test_memory_files_are_never_shared(tuned_copy: Run, tmp_path: Path, name: str, unfinished: bool) -> None:
    model = dynlm.load(tuned_copy.folder, rule="rms")
    model.read(TEXT + "the secret word is xyzzy", unfinished)
    model.save_memory(tuned_copy.folder / name)
    (tuned_copy.folder / "memory" / "mine-article.json").write_text('{"model": "m", "secret": "xyzzy"}')
    dynlm.load(tuned_copy.folder, rule="none").save_pretrained(tmp_path / "shared")
    shared = listing(tmp_path / "shared")
    assert name not in shared and "memory/mine-article.json" not in shared
    assert "Nothing that anybody read with a memory is in them" in shared["README.md"].decode()
    assert not any(b"xyzzy" in content for content in shared.values())
    memory = (tuned_copy.folder / name).read_bytes()
    assert memory not in shared.values()


@pytest.mark.parametrize("name", ["memory/key-stream.json", "model.json", "tokenizer/words.json", "memory"])
def test_links_out_of_a_run_are_never_shared(tuned_copy: Run, tmp_path: Path, name: str) -> None:
    (secret := tmp_path / "secret").mkdir()
    path = tuned_copy.folder / name
    if path.is_dir():
        path.rename(secret / "memory")
        target = secret / "memory"
    elif path.exists():
        path.rename(target := secret / "key")
    else:
        (target := secret / "key").write_text('["a private key"]')
    path.symlink_to(target)
    with pytest.raises(UserError, match="a link, which is not shared"):
        share_run(tuned_copy.folder, tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_links_with_other_names_are_ignored(tuned_copy: Run, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a private key")
    for name in ("tokenizer/key", "memory/key.json", "key.safetensors", "config.json"):
        (tuned_copy.folder / name).symlink_to(tmp_path / "key")
    share_run(tuned_copy.folder, tmp_path / "shared")
    assert not any(b"private" in content for content in listing(tmp_path / "shared").values())
