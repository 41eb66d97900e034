"""Reading texts of one's own: in several sittings as in one, and never a static parameter changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.memory_file import SavedMemory, load_about
from dynlm.data.articles import load_articles
from dynlm.data.stream import read_in_order
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.score_file import read_scores
from dynlm.evaluation.session import Session
from dynlm.evaluation.text_result import TextResult
from dynlm.run.folder import TrainedModel, load_model, params_fingerprint
from dynlm.run.opening import open_dynamic_model
from dynlm.train.config import Config
from tests.adapt.test_state_tensors import assert_equal
from tests.tiny import Run, generated, listing, opened, read_into, readable_name, scored, with_memory

SEGMENT = 7
FIRST = " the bafidela of the town was seen near a bafidela .\n\n = Zovi = \n they built the zovi\n" * 3
ODD = "a\u2581b\x00 c\nStraße 東京 \U0001f600\n\n\r\n \t x\n no end of line"


@pytest.fixture(scope="module")
def run(tuned_run: Run) -> Any:
    return opened(tuned_run.folder, with_memory(tuned_run.config, rule="rms", no_regret=True, segment=SEGMENT))


@pytest.fixture(scope="module")
def dynamic_model(run: Any) -> DynamicModel:
    dynamic_model: DynamicModel = run.dynamic_model()
    return dynamic_model


def read_all(
    dynamic_model: DynamicModel, run: Any, sittings: list[tuple[str, bool]]
) -> tuple[list[TextResult], SavedMemory]:
    session = Session(run.trained, run.memory, dynamic_model, SavedMemory(dynamic_model.fresh_memory()))
    return [session.read(text, finish) for text, finish in sittings], session.saved


def kept(saved: SavedMemory) -> Any:
    """All of a memory that is kept in a file."""
    memory = saved.memory
    return dataclasses.replace(saved, memory=memory._replace(mixture=memory.mixture._replace(experts_BT2=None)))


def assert_same_memory(one: SavedMemory, other: SavedMemory) -> None:
    one, other = kept(one), kept(other)
    assert_equal(one.memory, other.memory)
    assert (one.tokens, one.articles, one.unfinished) == (other.tokens, other.articles, other.unfinished)


def test_a_text_is_read_as_the_loop_reads_it(dynamic_model: DynamicModel, run: Any, trained: TrainedModel) -> None:
    (read,), saved = read_all(dynamic_model, run, [(FIRST, True)])
    text = TokenisedSplit.from_texts([FIRST], trained.tokenizer)
    *_, last = whole = list(iter_segments(dynamic_model, read_in_order(text, SEGMENT, [0])))
    assert np.array_equal(read.nats, torch.cat([each.nats_T for each in whole]).numpy())
    assert b"".join(read.surface).decode() == FIRST
    assert "".join(surface for surface, _ in read) == FIRST
    assert read.words.sum() == len(FIRST.split()) + FIRST.count("\n")
    assert read.total == pytest.approx(float(read.nats.sum()))
    assert (saved.tokens, saved.articles, saved.unfinished) == (len(text.ids_N), 1, None)
    assert_equal(saved.memory.params, last.memory.params)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cuts=st.lists(st.integers(0, len(FIRST + ODD)), max_size=4).map(sorted))
def test_a_text_in_pieces_equals_the_whole_text(cuts: list[int], dynamic_model: DynamicModel, run: Any) -> None:
    """Cut anywhere, inside words, lines and segments: the same losses and the same memory, bit for bit."""
    text = FIRST + ODD
    (whole,), at_once = read_all(dynamic_model, run, [(text, True)])
    parts = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    parts = [part for part in parts[:-1] if part] + parts[-1:]
    reported, saved = read_all(dynamic_model, run, [(part, part is parts[-1]) for part in parts])
    for column in ("token", "words", "nats"):
        assert np.array_equal(np.concatenate([getattr(read, column) for read in reported]), getattr(whole, column))
    assert [surface for read in reported for surface in read.surface] == whole.surface
    assert_same_memory(saved, at_once)


@pytest.mark.parametrize("rule", ["none", "sgd", "rms", "meta"])
def test_files_read_in_two_sittings(rule: str, tuned_copy: Run, tmp_path: Path) -> None:
    config = with_memory(tuned_copy.config, rule=rule)
    texts = [FIRST, ODD, FIRST * 2]

    def sitting(name: str, some: list[str], unfinished: bool = False) -> Path:
        read_into(tmp_path / name, tuned_copy.folder, config, some, unfinished)
        return tmp_path / name

    one = sitting("one.safetensors", texts)
    sitting("two.safetensors", texts[:1])
    two = sitting("two.safetensors", texts[1:])
    sitting("three.safetensors", [FIRST, ODD[:9]], unfinished=True)
    three = sitting("three.safetensors", [ODD[9:], FIRST * 2])
    assert len({load_about(path)[0].content for path in (one, two, three)}) == 1


@pytest.mark.parametrize("cuts", [[], [77]])
def test_a_mixture_gives_the_static_models_losses(cuts: list[int], tuned_run: Run) -> None:
    mixed = Session.open(opened(tuned_run.folder, with_memory(tuned_run.config, rule="rms", no_regret=True)))
    plain = Session.open(opened(tuned_run.folder, with_memory(tuned_run.config, rule="none")))
    assert mixed.compares and plain.compares and mixed.level_1() is None
    for begin, end in zip([0, *cuts], [*cuts, None], strict=True):
        results = [session.read(FIRST[begin:end], finish=end is None) for session in (mixed, plain)]
        assert all(result.static is not None for result in results) and results[1].static is results[1].nats
        np.testing.assert_allclose(results[0].static, results[1].nats, rtol=0, atol=1e-5)
    alone = Session.open(opened(tuned_run.folder, with_memory(tuned_run.config, rule="rms")))
    assert not alone.compares and alone.read(FIRST).static is None


def test_reading_changes_no_static_parameter(tuned_copy: Run, tmp_path: Path) -> None:
    before = listing(tuned_copy.folder)
    done = read_into(tmp_path / "me.safetensors", tuned_copy.folder, tuned_copy.config, [FIRST])
    mark = params_fingerprint(load_model(tuned_copy.folder).params)
    assert done.static == (mark, mark)
    assert done.distance > 0
    assert listing(tuned_copy.folder) == before


def test_reading_the_same_text_again_costs_less(tuned_copy: Run, tmp_path: Path) -> None:
    path = tmp_path / "me.safetensors"
    first, again = (read_into(path, tuned_copy.folder, tuned_copy.config, [FIRST], again=True) for _ in range(2))
    assert again.nats_per_token < first.nats_per_token - 5 / first.tokens
    assert (again.memory["tokens"], again.memory["articles"]) == (2 * first.tokens, 2)


def test_a_sitting_that_fails_leaves_the_file(tuned_copy: Run, tmp_path: Path) -> None:
    path = tmp_path / "me.safetensors"

    def read(config: Config, *texts: str) -> None:
        read_into(path, tuned_copy.folder, config, list(texts))

    for config, text, message in (
        (tuned_copy.config, "", "an empty text"),
        (tuned_copy.config, "\ud800", "surrogate"),
        (with_memory(tuned_copy.config, rule="none", lanes=2), FIRST, r"memory\.lanes is 2"),
    ):
        with pytest.raises(UserError, match=message):
            read(config, text)
        assert not path.exists()
    read(tuned_copy.config, FIRST)
    before = path.read_bytes()
    with pytest.raises(UserError, match="an empty text"):
        read(tuned_copy.config, FIRST, "")
    assert path.read_bytes() == before


def test_scoring_with_a_memory_file_continues_its_stream(
    tuned_copy: Run, trained: TrainedModel, tmp_path: Path
) -> None:
    """An unfinished article is finished first; then the split's articles follow in the same stream."""
    config, path = with_memory(tuned_copy.config, rule="rms", track=True), tmp_path / "me.safetensors"
    read_into(path, tuned_copy.folder, config, [FIRST, FIRST[:50]], unfinished=True)
    kept_before = path.read_bytes()
    written, _ = scored(tuned_copy.folder, config, "1-2", memory_file=path)
    assert readable_name(written) == "valid-1-2-rms-stream-after-me"
    after = read_scores(written)
    assert path.read_bytes() == kept_before
    chosen = open_dynamic_model(tuned_copy.folder, trained, config.memory)
    valid = tokenise(load_articles(config.corpus, "valid"), trained.tokenizer)
    session = Session.open(opened(tuned_copy.folder, config), path)
    session.read("")
    nats = [r.nats_T for r in iter_segments(chosen, read_in_order(valid, 20, [0, 1]), session.saved.memory)]
    assert np.array_equal(after.nats, torch.cat(nats).numpy())
    fresh = scored(tuned_copy.folder, config, "1-2")[1]
    assert not np.array_equal(fresh.nats, after.nats)
    assert after.distance is not None and after.reset_share is not None
    assert after.distance[0] > 0 and after.reset_share[0] > 0
    assert after.protocol["variant"] == "rms after me"
    assert "starting with a memory of" in after.protocol["statement"]
    assert after.protocol["memory"]["articles"] == 2


def test_a_memory_file_under_article_resets_is_refused(tuned_copy: Run, tmp_path: Path) -> None:
    config = with_memory(tuned_copy.config, rule="rms", reset="article")
    read_into(tmp_path / "me.safetensors", tuned_copy.folder, config, [FIRST])
    with pytest.raises(UserError, match="would discard the memory file"):
        scored(tuned_copy.folder, config, memory_file=tmp_path / "me.safetensors")


def test_generation_continues_an_unfinished_article(tuned_copy: Run, tmp_path: Path) -> None:
    config, path = with_memory(tuned_copy.config, rule="rms"), tmp_path / "me.safetensors"
    text = FIRST * 8
    read_into(path, tuned_copy.folder, config, [text[:200]], unfinished=True)
    before = path.read_bytes()
    at_once = generated(tuned_copy.folder, config, text, 30, temperature=0)
    assert generated(tuned_copy.folder, config, text[200:], 30, temperature=0, memory_file=path) == at_once
    assert path.read_bytes() == before
    # Finished, the prompt opens an article of its own, with what the last one taught.
    read_into(path, tuned_copy.folder, config, [text[200:]])
    opened = generated(tuned_copy.folder, config, " the", 30, temperature=0, memory_file=path)
    assert opened != generated(tuned_copy.folder, config, " the", 30, temperature=0)
    assert isinstance(generated(tuned_copy.folder, config, "", 5, memory_file=path), str)


@pytest.mark.parametrize(("option", "value"), [("merge_every", 4), ("used_rows", 100)])
def test_a_session_needs_all_updates_in_the_weights(tuned_run: Run, option: str, value: int) -> None:
    chosen = opened(tuned_run.folder, with_memory(tuned_run.config, rule="rms", segment=SEGMENT, **{option: value}))
    with pytest.raises(UserError, match=rf"memory\.{option} is {value}, and a reading in sittings"):
        Session.open(chosen)
