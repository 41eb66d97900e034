"""Models, tokenizers, options and memories that do not fit are refused, in one line."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")

import dynlm
from dynlm.errors import UserError
from dynlm.evaluation.memory_export import base_of
from dynlm.run.folder import TrainedModel
from tests.models.hf.attached import ONE, SHORT, TEXT
from tests.models.hf.tiny import tiny

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rule": "rms"}, "rms' needs statistics of gradients; give statistics=TEXTS"),
    ({"rule": "rms", "statistics": ["a"]}, "rms' has no lr and no decay and no epsilon; give lr=, decay=, epsilon="),
    ({"rule": "rms", "statistics": []}, "statistics are computed on texts"),
    ({"rule": "rms", "statistics": "nowhere/statistics.safetensors"}, "no such file"),
    ({"rule": "sgd"}, "sgd' has no lr"),
    ({"rule": "meta"}, "meta' needs parameters that were learned; give the path"),
    ({"rule": "adamant"}, "memory.rule is 'adamant'"),
    ({"rule": "nowhere/meta-stream.safetensors"}, "no such file"),
    ({"lrate": 0.1}, "no option 'lrate'.*; choose among .*context.*lora_alpha.*seed"),
    ({"lora_rank": 4}, "no option 'lora_rank'; give rank"),
    ({"lr": "fast"}, "memory.lr is 'fast'"),
    ({"rank": -1}, "memory.lora_rank is -1"),
    ({"targets": "mlp.sideways"}, "memory.targets has 'mlp.sideways', which fits no tensor"),
    ({"context": 65}, "context is 65, and the model has 64 positions"),
    ({"context": 32, "stride": 48}, "model.stride is 48"),
    ({"cache": "fixed"}, "cache 'fixed' has no cache_window and no cache_inverse_temperature and no cache_share"),
    ({"cache": "learned"}, "cache 'learned' needs a gate that was learned; choose cache='fixed'"),
    ({"lanes": 2, "reset": "article"}, "memory.lanes is 2"),
]


@ONE
@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:24] for _, message in REFUSED])
def test_unfitting_arguments_are_refused(given: tuple[Any, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        dynlm.attach(*given, **options)
    assert "\n" not in str(error.value)


@ONE
def test_unfitting_models_and_tokenizers_are_refused(given: tuple[Any, Any], pretrained: Path) -> None:
    from transformers import AutoModel

    model, tokenizer = given
    with pytest.raises(UserError, match="a Linear is no causal language model"):
        dynlm.attach(torch.nn.Linear(2, 2), tokenizer)
    with pytest.raises(UserError, match="is no causal language model"):
        dynlm.attach(AutoModel.from_pretrained(pretrained), tokenizer)
    with pytest.raises(UserError, match="its tokenizer has no fast form"):
        dynlm.attach(model, object())
    with pytest.raises(UserError, match=r"the tokenizer has \d+ tokens, the model 97"):
        dynlm.attach(tiny("llama"), tokenizer)
    with pytest.raises(UserError, match="its weights are on meta"):
        dynlm.attach(copy.deepcopy(model).to("meta"), tokenizer)
    with torch.inference_mode(), pytest.raises(UserError, match=r"it was loaded in torch\.inference_mode"):
        dynlm.attach(tiny("llama"), tokenizer)
    broken = copy.deepcopy(model)
    next(broken.parameters()).data[0] = math.nan
    with pytest.raises(UserError, match="is not finite"):
        dynlm.attach(broken, tokenizer)


@ONE
def test_tokens_that_the_model_does_not_have_are_refused(given: tuple[Any, Any]) -> None:
    """Those of a text; special tokens are read as plain text."""
    tokenizer = copy.deepcopy(given[1])
    tokenizer.add_special_tokens({"pad_token": "<pad>", "bos_token": "<begin>"})
    losses = dynlm.attach(given[0], tokenizer, **SHORT).read(TEXT + "<pad>")
    assert losses.token.max() < 400 and b"".join(losses.surface).endswith(b"<pad>")
    tokenizer.add_tokens(["kula"])
    with pytest.raises(UserError, match="the tokenizer has 403 tokens, the model 400"):
        dynlm.attach(given[0], tokenizer)


@ONE
def test_an_attached_model_is_not_shared_as_a_run(given: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run, which can be shared"):
        dynlm.attach(*given, **SHORT).save_pretrained(tmp_path / "shared")


@ONE
def test_a_memory_of_another_model_is_refused(given: tuple[Any, Any], tmp_path: Path) -> None:
    reader = dynlm.attach(*given, **SHORT)
    reader.read(TEXT)
    reader.save(tmp_path)
    other = copy.deepcopy(given[0])
    next(other.parameters()).data += 1e-3
    fresh = dynlm.attach(other, given[1], **SHORT)
    with pytest.raises(UserError, match="a memory of another model"):
        fresh.load_memory(tmp_path)
    assert fresh.tokens_read == 0


@ONE
def test_what_was_saved_before_stays_where_saving_fails(
    given: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise UserError("the disk is full")

    reader = dynlm.attach(*given, **SHORT)
    reader.save(tmp_path / "me")
    before = (tmp_path / "me" / "dynlm.safetensors").read_bytes()
    reader.read(TEXT)
    monkeypatch.setattr("dynlm.evaluation.session_folder.commit_dir", fail)
    with pytest.raises(UserError, match="the disk is full"):
        reader.save(tmp_path / "me")
    assert [path.name for path in tmp_path.iterdir()] == ["me"]
    assert (tmp_path / "me" / "dynlm.safetensors").read_bytes() == before


def test_a_name_on_the_hub_is_not_looked_for_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    tokenizer: Any = SimpleNamespace(fingerprint="b")
    model: Any = None
    for revision, name in (("0a1b", "gpt2"), (None, str(tmp_path / "gpt2"))):
        card = {"adopted_from": "gpt2", "revision": revision, "fingerprint": "a"}
        assert base_of(TrainedModel(model, {}, tokenizer, card)) == ("a", "b", name, revision)
