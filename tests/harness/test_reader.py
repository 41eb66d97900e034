"""Reading for the harness gives what sessions and scorings give; a continuation is scored and never learned from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynlm.adapt.next_token import predict_next
from dynlm.evaluation.generate import generate
from dynlm.evaluation.sampling import Sampling, Stop
from dynlm.evaluation.session import Session
from dynlm.harness.arguments import Arguments
from dynlm.harness.opening import open_model
from dynlm.harness.reader import DocumentReader
from dynlm.train.config import Config
from tests.harness.conftest import DOCUMENTS, LINE
from tests.tiny import Run, opened, scored, with_memory

SGD = {"rule": "sgd", "lr": 0.3, "segment": 7}
ADAM = {"rule": "adam", "lr": 0.01, "segment": 7, "lora_rank": 4, "lora_alpha": 8, "context": 48, "stride": 24}
CONTEXT = LINE * 5 + " the"


def reader_of(**given: Any) -> DocumentReader:
    model = open_model(Arguments.parse({"device": "cpu", **given}))
    return DocumentReader(model.dynamic_model, model.trained.tokenizer, model.memory.segment)


def config_of(run: Run, **options: Any) -> Config:
    return with_memory(run.config, **{"reset": "article", **SGD, **options})


def ids_of(reader: DocumentReader, text: str) -> list[int]:
    ids: list[int] = reader.tokenizer.encode(text).ids.tolist()
    return ids


@pytest.fixture(params=["an LSTM run", "a pretrained Llama"])
def given(request: pytest.FixtureRequest, trained_run: Run) -> dict[str, Any]:
    """Arguments of a model that learns."""
    if request.param == "an LSTM run":
        return {"run": str(trained_run.folder), **SGD}
    return {"pretrained": str(request.getfixturevalue("pretrained")), **ADAM}


@pytest.mark.parametrize("reset", ["article", "stream"])
def test_documents_cost_what_a_session_reads_them_for(reset: str, trained_run: Run) -> None:
    session = Session.open(opened(trained_run.folder, config_of(trained_run, reset=reset)))
    expected = [-session.read(text).total if text else 0.0 for text in DOCUMENTS]
    reader = reader_of(run=str(trained_run.folder), reset=reset, **SGD)
    assert list(reader.read(DOCUMENTS)) == expected
    assert reader.tokens == session.saved.tokens
    # A memory that is reset gives a text the same sum again; one that goes on has learned it.
    (again,) = reader.read(DOCUMENTS[:1])
    assert again == expected[0] if reset == "article" else again > expected[0] + 1


def test_documents_cost_what_a_scoring_finds(run_copy: Run) -> None:
    config = config_of(run_copy)
    run = opened(run_copy.folder, config)
    split = run.split("valid")
    _, scores = scored(run_copy.folder, config, "1-3")
    expected = [-float(scores.nats[scores.article == index].sum(dtype=np.float64)) for index in range(3)]
    texts = [b"".join(split.surfaces(index)).decode() for index in range(3)]
    assert list(reader_of(run=str(run_copy.folder), **SGD).read(texts)) == expected


def test_without_learning_a_document_costs_what_transformers_computes(pretrained: Path) -> None:
    from transformers import AutoModelForCausalLM

    reader = reader_of(pretrained=str(pretrained), rule="none", context=64, stride=32)
    module = AutoModelForCausalLM.from_pretrained(pretrained).eval()
    ids_T = torch.tensor([0, *ids_of(reader, LINE)])
    assert 10 < len(ids_T) < 64
    with torch.no_grad():
        log_p_TV = module(ids_T[None, :-1]).logits[0].log_softmax(-1)
    (found,) = reader.read([LINE])
    assert found == pytest.approx(float(log_p_TV.gather(1, ids_T[1:, None]).double().sum()), abs=1e-3)
    # The same tokens as a continuation of nothing.
    total, _ = reader.score(reader.read_context(""), ids_T[1:].tolist())
    assert total == pytest.approx(found, abs=1e-3)


def test_a_continuation_is_scored_with_the_weights_that_the_context_left(given: dict[str, Any]) -> None:
    """Against one token at a time. A full window would be computed anew at other tokens."""
    given |= {"context": 256, "stride": 128} if "pretrained" in given else {}
    reader = reader_of(**given)
    ids = ids_of(reader, " bafidela of the town was seen near a village .\n")
    assert len(ids) > 2 * reader.segment
    context = reader.read_context(CONTEXT)
    found, greedy = reader.score(context, ids)
    memory, last, total, likeliest = context.memory, context.last, 0.0, True
    for token in ids:
        logits_V, memory = predict_next(reader.dynamic_model, memory, last)
        total += float(logits_V.double().log_softmax(-1)[token])
        likeliest, last = likeliest and int(logits_V.argmax()) == token, token
    assert (found, greedy) == (pytest.approx(total, abs=1e-4), likeliest)
    static = reader_of(**{**given, "rule": "none"})
    assert found > static.score(static.read_context(CONTEXT), ids)[0] + 1, "the context taught a word"


def test_a_continuation_is_not_learned_from(given: dict[str, Any]) -> None:
    reader = reader_of(**given)
    choices = [ids_of(reader, text) for text in (" village of the town", " bafidela", " bafidela")]
    context = reader.read_context(CONTEXT)
    before = {name: tensor.clone() for name, tensor in context.memory.params.items()}
    first, second, third = (reader.score(context, ids) for ids in choices)
    assert second == third
    assert first == reader.score(context, choices[0])
    assert before and all(torch.equal(before[name], tensor) for name, tensor in context.memory.params.items())
    # A later token changes nothing of the earlier ones.
    changed = [*choices[0][:-1], choices[0][-1] ^ 1]
    nats = [reader.score(context, ids)[0] - reader.score(context, ids[:-1])[0] for ids in (choices[0], changed)]
    assert nats[0] != nats[1]
    assert reader.score(context, choices[0][:-1]) == reader.score(context, changed[:-1])


def test_a_context_that_follows_itself_is_read_once(given: dict[str, Any]) -> None:
    reader = reader_of(**given, reset="stream")
    context = reader.read_context(CONTEXT)
    assert reader.read_context(CONTEXT) is context
    assert reader.tokens == len(context.ids)
    reader.forget_context()
    again = reader.read_context(CONTEXT)
    assert reader.tokens == 2 * len(context.ids)
    assert again.ids == context.ids
    list(reader.read(DOCUMENTS[:1]))  # what writes over the memory of the context
    assert reader.read_context(CONTEXT) is not again


def test_a_mixture_and_a_cache_stay_as_the_context_left_them(tuned_run: Run) -> None:
    given = {"rule": "rms", "no_regret": True, "cache": "fixed", "cache_window": 50}
    given |= {"cache_inverse_temperature": 0.5, "cache_share": 0.2}
    reader = reader_of(run=str(tuned_run.folder), **given)
    ids = ids_of(reader, " bafidela of the town")
    context = reader.read_context(CONTEXT)
    assert context.memory.cache is not None and context.memory.mixture is not None
    kept = context.memory.copy()
    assert reader.score(context, ids) == reader.score(context, ids)
    assert all(torch.equal(*pair) for pair in zip(kept.cache, context.memory.cache, strict=True))
    assert torch.equal(kept.mixture.log_weights_B2, context.memory.mixture.log_weights_B2)
    # Each distribution sums to 1.
    every = [reader.score(context, [token])[0] for token in range(reader.tokenizer.size)]
    assert float(torch.tensor(every, dtype=torch.float64).exp().sum()) == pytest.approx(1, abs=1e-4)


def test_a_text_continues_as_a_session_generates_it(trained_run: Run) -> None:
    config = config_of(trained_run)
    sampling = Sampling(20, temperature=0.8, top_k=40, seed=3)
    expected = "".join(generate(Session.open(opened(trained_run.folder, config)), LINE * 5, sampling))
    reader = reader_of(run=str(trained_run.folder), **SGD)
    context = reader.read_context(LINE * 5)
    assert reader.continue_text(context, sampling, Stop()) == expected
    assert reader.continue_text(context, sampling, Stop()) == expected, "nothing was learned from it"
    middle = expected[7:10]
    assert reader.continue_text(context, sampling, Stop((middle,))) == expected[: expected.index(middle)]
    ids = ids_of(reader, expected)
    cut = reader.continue_text(context, sampling, Stop(tokens=frozenset({ids[4]})))
    assert expected.startswith(cut) and len(cut) < len(expected)
    few = dataclasses.replace(sampling, tokens=5)
    nothing = "".join(generate(Session.open(opened(trained_run.folder, config)), "", few))
    assert reader.continue_text(reader.read_context(""), few, Stop()) == nothing
