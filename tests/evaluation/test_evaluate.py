"""Evaluation: level 1 is the model's own loss, and lanes, rates of zero, resets and recorded distances agree."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor

from dynlm.adapt.loop import iter_segments
from dynlm.data.articles import load_articles
from dynlm.data.stream import read_in_order
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.evaluation.evaluate import Evaluation, evaluate, explain_out_of_memory
from dynlm.evaluation.protocol import ArticleOrder
from dynlm.evaluation.score_file import read_scores
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.protocol import Scored, token_nats
from dynlm.run.folder import TrainedModel
from dynlm.run.opening import open_dynamic_model
from dynlm.types import Params
from tests.tiny import Run, readable_name, rescored, scored, with_memory


def test_a_segment_is_of_one_article_and_no_longer_than_asked(
    tuned_run: Run, trained: TrainedModel, valid: TokenisedSplit
) -> None:
    dynamic_model = open_dynamic_model(tuned_run.folder, trained, with_memory(tuned_run.config, rule="none").memory)
    scores = evaluate(Evaluation(dynamic_model, valid, range(valid.articles), 20))
    for segment in np.unique(scores.segment):
        rows = np.flatnonzero(scores.segment == segment)
        assert len(rows) <= 20
        assert len(set(scores.article[rows])) == 1
        assert scores.position[rows[0]] % 20 == 0


def test_level_1_is_the_models_own_loss(tuned_copy: Run, trained: TrainedModel, valid: TokenisedSplit) -> None:
    """Each article read at once by the reference loss, without the loop that scores."""
    _, scores = rescored(tuned_copy, with_memory(tuned_copy.config, rule="none"))
    for article in range(valid.articles):
        inputs_BT = torch.from_numpy(valid.inputs(article).astype(np.int64))[None]
        targets_BT = torch.from_numpy(np.array(valid.article(article), dtype=np.int64))[None]
        output = trained.model.forward(trained.params, trained.model.init_state(1, torch.ones(1)), inputs_BT)
        nats_BT = token_nats(output.logits_BTV, targets_BT)
        np.testing.assert_allclose(scores.nats[scores.rows(article)], nats_BT[0].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule, longest", [("none", 60), ("rms", 20)])
def test_only_level_1_is_scored_in_longer_pieces(
    rule: str, longest: int, tuned_run: Run, trained: TrainedModel, valid: TokenisedSplit, monkeypatch: MonkeyPatch
) -> None:
    lengths, score = [], LSTMEngine.score

    def counted(engine: LSTMEngine, params: Params, own: Params, inputs_BT: Tensor, *rest: Any) -> Scored:
        lengths.append(inputs_BT.shape[1])
        return score(engine, params, own, inputs_BT, *rest)

    memory = with_memory(tuned_run.config, rule=rule).memory
    dynamic_model = open_dynamic_model(tuned_run.folder, trained, memory)
    evaluation = Evaluation(dynamic_model, valid, range(valid.articles), 20)
    monkeypatch.setattr(LSTMEngine, "tokens_at_once", lambda *_: 20)
    by_segments = evaluate(evaluation)
    monkeypatch.setattr(LSTMEngine, "tokens_at_once", lambda *_: 60)
    monkeypatch.setattr(LSTMEngine, "score", counted)
    scores = evaluate(evaluation)
    assert max(lengths) == longest and sum(lengths) == len(valid.ids_N)
    assert np.array_equal(scores.segment, by_segments.segment)
    np.testing.assert_allclose(scores.nats, by_segments.nats, rtol=1e-5, atol=1e-5)


def test_every_rule_lowers_the_loss_of_repetitive_text(tuned_copy: Run) -> None:
    """The synthetic articles repeat their own words, so learning while reading must help."""
    means = {}
    for rule in ("none", "sgd", "rms", "meta"):
        _, scores = rescored(tuned_copy, with_memory(tuned_copy.config, rule=rule), split="test")
        means[rule] = float(scores.nats.astype(np.float64).mean())
    assert all(means[rule] < means["none"] - 0.02 for rule in ("sgd", "rms", "meta")), means


@pytest.mark.parametrize(
    "options", [{"rule": "sgd"}, {"rule": "sgd+decay", "decay": 0.0}, {"rule": "rms", "decay": 0.0}]
)
def test_a_rate_of_zero_is_level_1_bit_for_bit(options: dict[str, object], tuned_copy: Run) -> None:
    level_1 = rescored(tuned_copy, with_memory(tuned_copy.config, rule="none"))[1]
    zero = rescored(tuned_copy, with_memory(tuned_copy.config, lr=0.0, **options))[1]
    assert np.array_equal(level_1.nats, zero.nats)


def test_articles_under_article_resets_do_not_depend_on_their_neighbours(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms", reset="article")
    whole = rescored(tuned_copy, config)[1]
    path, part = rescored(tuned_copy, config, articles="2-3")
    assert readable_name(path) == "valid-2-3-rms-article"
    assert part.articles.tolist() == [1, 2]
    rows = np.isin(whole.article, [1, 2])
    assert np.array_equal(part.nats, whole.nats[rows])
    assert np.array_equal(part.token, whole.token[rows])
    assert part.surface == [surface for surface, kept in zip(whole.surface, rows, strict=True) if kept]


def test_articles_under_stream_resets_depend_on_earlier_ones(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms", reset="stream")
    whole = rescored(tuned_copy, config)[1]
    part = rescored(tuned_copy, config, articles="2-3")[1]
    assert not np.array_equal(part.nats, whole.nats[np.isin(whole.article, [1, 2])])


def test_both_policies_read_the_first_article_alike(tuned_copy: Run) -> None:
    rates = {"rule": "rms", "lr": 0.01, "decay": 0.001, "epsilon": 0.001}
    stream, article = (
        rescored(tuned_copy, with_memory(tuned_copy.config, reset=reset, **rates))[1] for reset in ("stream", "article")
    )
    first = stream.rows(0)
    assert np.array_equal(stream.nats[first], article.nats[first])
    assert not np.array_equal(stream.nats, article.nats)


def test_the_first_article_read_starts_at_the_static_weights(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms", track=True)
    shuffled = scored(tuned_copy.folder, config, order=ArticleOrder("shuffled", 3))[1]
    assert shuffled.distance is not None and shuffled.reset_share is not None
    first = ArticleOrder("shuffled", 3).apply(range(6))[0]
    assert first != 0
    home = (shuffled.article == first) & (shuffled.position < 20)
    assert (shuffled.distance[home] == 0).all() and (shuffled.distance[~home] > 0).all()
    assert (shuffled.reset_share[home] == 0).all() and (shuffled.reset_share[~home] > 0).all()


@pytest.mark.parametrize(
    "rule, reset", [("none", "stream"), ("sgd", "article"), ("rms", "article"), ("meta", "article")]
)
@pytest.mark.parametrize("lanes", [2, 5])
def test_lanes_equal_one_lane(rule: str, reset: str, lanes: int, tuned_copy: Run, trained: TrainedModel) -> None:
    one_by_one = rescored(tuned_copy, with_memory(tuned_copy.config, rule=rule, reset=reset))[1]
    path, together = rescored(tuned_copy, with_memory(tuned_copy.config, rule=rule, reset=reset, lanes=lanes))
    np.testing.assert_allclose(together.nats, one_by_one.nats, rtol=2e-4, atol=2e-4)
    for column in ("article", "position", "segment", "token", "words"):
        assert np.array_equal(getattr(together, column), getattr(one_by_one, column)), column
    assert together.surface == one_by_one.surface
    protocol = read_scores(path).protocol
    assert (protocol["lanes"], protocol["processes"]) == (lanes, 1)
    weights = sum(map(np.prod, trained.model.shapes().values())) if rule != "none" else 0
    assert protocol["memory_bytes_a_lane"] > 4 * weights


def test_another_error_is_not_explained_as_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="^shapes differ$"), explain_out_of_memory(4):
        raise RuntimeError("shapes differ")


def test_there_are_no_more_lanes_than_articles(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms", reset="article", lanes=10_000)
    assert rescored(tuned_copy, config, articles="2-4")[1].protocol["lanes"] == 3


def test_native_kernels_score_alike(tuned_copy: Run) -> None:
    pytest.importorskip("ninja")
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the native kernels with")
    plain = rescored(tuned_copy, with_memory(tuned_copy.config, rule="rms"))[1]
    native = rescored(tuned_copy, with_memory(tuned_copy.config, rule="rms", kernels="native"))[1]
    np.testing.assert_allclose(native.nats, plain.nats, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("lanes", [1, 3])
def test_the_distance_from_theta_0_is_recorded(lanes: int, tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms", reset="article", lanes=lanes, track=True)
    path, tracked = rescored(tuned_copy, config)
    read = read_scores(path)
    plain = rescored(tuned_copy, with_memory(config, track=False))[1]
    assert plain.distance is None and plain.reset_share is None
    assert np.array_equal(tracked.nats, plain.nats)
    assert read.distance is not None and read.reset_share is not None
    opening = read.position < 20
    assert (read.distance[opening] == 0).all()
    assert (read.distance[~opening] > 0).all()
    assert np.array_equal(read.reset_share == 1, opening)


def test_under_stream_the_weights_stay_away_from_theta_0(tuned_copy: Run, trained: TrainedModel) -> None:
    config = with_memory(tuned_copy.config, rule="rms", reset="stream", track=True)
    tracked = rescored(tuned_copy, config)[1]
    assert tracked.distance is not None and tracked.reset_share is not None
    assert (tracked.distance[20:] > 0).all()
    rule = open_dynamic_model(tuned_copy.folder, trained, config.memory).rule
    betas = torch.cat([beta.flatten() for beta in rule.beta.values() if isinstance(beta, torch.Tensor)])
    assert (tracked.reset_share[:20] == 0).all()
    assert tracked.reset_share[20:] == pytest.approx(float(betas.mean()), rel=1e-4)
    # The same by hand, for the weights that the second segment is read with.
    dynamic_model = open_dynamic_model(tuned_copy.folder, trained, config.memory)
    text = tokenise(load_articles(tuned_copy.config.corpus, "valid"), trained.tokenizer)
    params = next(iter_segments(dynamic_model, read_in_order(text, 20, range(text.articles)))).memory.params
    weights = {name: tensor[0] for name, tensor in params.items()}
    away, home = (
        torch.cat([tensor.flatten() for tensor in tensors])
        for tensors in ([weights[n] - trained.params[n] for n in weights], [trained.params[n] for n in weights])
    )
    assert tracked.distance[25] == pytest.approx(float(away.norm() / home.norm()), rel=1e-5)
