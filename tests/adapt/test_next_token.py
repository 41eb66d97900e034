"""The next token's distribution under a cache is the one that scoring uses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

import dynlm
from dynlm.adapt.memory_file import SavedMemory
from dynlm.adapt.next_token import log_with_cache
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.cache_gate import Gate, gate_feature_names, initial_gate
from dynlm.evaluation.session import Session
from dynlm.run.folder import load_model
from dynlm.run.opening import open_dynamic_model
from tests.cli.commands import Capture, answer_json
from tests.tiny import Run, generated, read_into, with_memory

LINE = " the bafidela of the town was seen near a bafidela . \n"
INVERSE_TEMPERATURES = (0.3, 0.8)


def gate() -> Gate:
    generator = torch.Generator().manual_seed(1)
    features_NK = torch.randn(50, len(gate_feature_names(INVERSE_TEMPERATURES)), generator=generator)
    params = initial_gate([0.5, 0.3, 0.2], features_NK, 4, generator)
    moved = {name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in params.items()}
    return Gate({**moved, "spread": params["spread"]})


@pytest.mark.parametrize("window", [7, 500])
@pytest.mark.parametrize("gated", [False, True])
def test_the_distribution_gives_the_scored_nats(window: int, gated: bool, tuned_run: Run) -> None:
    trained = load_model(tuned_run.folder)
    cache = Cache(window, INVERSE_TEMPERATURES, gate()) if gated else Cache(window, (0.5,), 0.3)
    config = with_memory(tuned_run.config, rule="none")
    dynamic_model = dataclasses.replace(open_dynamic_model(tuned_run.folder, trained, config.memory), cache=cache)
    begun, whole = LINE * 3, LINE * 4
    ids = trained.tokenizer.encode(whole).ids
    session = Session(trained, config.memory, dynamic_model, SavedMemory(dynamic_model.fresh_memory()))
    scored = session.copy().read(whole)
    at = len(session.read(begun))
    memory = session.saved.memory
    assert memory.cache is not None
    token_11 = torch.tensor([[int(ids[at - 1])]])
    with torch.no_grad():
        output = dynamic_model.model.forward(dynamic_model.static, memory.state, token_11)
    before = [tensor.clone() for tensor in memory.cache]
    log_p_V = log_with_cache(cache, memory.cache, output.features_BTH, output.logits_BTV)[0, 0]
    assert all(torch.equal(*pair) for pair in zip(before, memory.cache, strict=True))
    assert float(log_p_V.exp().sum()) == pytest.approx(1, abs=1e-4)
    assert float(-log_p_V[int(ids[at])]) == pytest.approx(float(scored.nats[at]), abs=1e-4)
    alone = float(-output.logits_BTV[0, 0].log_softmax(-1)[int(ids[at])])
    assert not math.isclose(alone, float(scored.nats[at]), abs_tol=1e-3)


def test_text_is_generated_from_a_memory_with_a_cache(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    options = {"cache": "fixed", "cache_window": 300, "cache_inverse_temperature": [2.0], "cache_share": 0.9}
    config, me = with_memory(tuned_copy.config, rule="none", **options), tmp_path / "me.safetensors"
    read_into(me, tuned_copy.folder, config, [LINE * 5])
    cached = generated(tuned_copy.folder, config, LINE, 30, temperature=0, memory_file=me)
    plain = generated(tuned_copy.folder, with_memory(tuned_copy.config, rule="none"), LINE, 30, temperature=0)
    assert cached != plain
    mixed = with_memory(tuned_copy.config, rule="rms", no_regret=True, **options)
    assert generated(tuned_copy.folder, mixed, LINE * 3, 5) and generated(tuned_copy.folder, mixed, "", 5)
    given = ("--memory", me, "--prompt", LINE, "--tokens", "30", "--temperature", "0")
    (sample,) = answer_json(capsys, "generate", tuned_copy.folder, *given)["samples"]
    assert sample["text"] == cached
    model = dynlm.load(tuned_copy.folder)
    model.load_memory(me)
    assert model.generate(LINE, 30, temperature=0) == cached
