"""Reading without article boundaries: the losses are those of the articles as one text, reported for each article."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynlm.adapt.loop import read_segment
from dynlm.adapt.options import StepOptions
from dynlm.cli.main import main
from dynlm.data.stream import Segment
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation import evaluate as evaluating
from dynlm.evaluation.checks.protocol import check_protocol
from dynlm.evaluation.checks.verify import verify
from dynlm.evaluation.compare import compare
from dynlm.evaluation.evaluate import Evaluation, evaluate
from dynlm.evaluation.joined import evaluate_joined
from dynlm.evaluation.protocol import ArticleOrder
from dynlm.evaluation.score_file import read_scores
from dynlm.evaluation.session import Session
from dynlm.run.folder import TrainedModel
from dynlm.runtime.checkpoints import Checkpoints
from tests.evaluation.test_scoring_resume import Killed, assert_same_scores, often
from tests.tiny import Run, opened, read_into, readable_name, scored, with_memory
from tests.trainings import tune, tune_cache

CACHE = {"cache": "fixed", "cache_window": 60, "cache_inverse_temperature": [0.6], "cache_share": 0.2}
VARIANTS: list[dict[str, Any]] = [
    {"rule": "none"},
    {"rule": "rms", "lr": 1e-3, "decay": 1e-3, "epsilon": 1e-3},
    {"rule": "sgd", "lr": 0.1, "no_regret": True},
    {"rule": "meta", **CACHE},
]


def untold(run: Run, **memory: Any) -> Any:
    return with_memory(run.config, article_boundaries=False, **memory)


def naive(run: Run, config: Any, text: TokenisedSplit, order: list[int]) -> np.ndarray:
    """Concatenate the articles by hand, cut them into segments by hand, and read these one after the other."""
    dynamic_model, size = opened(run.folder, config).dynamic_model(), config.memory.segment
    ids = [int(token) for article in order for token in text.article(article)]
    flags, n = [], 0
    for article in order:
        flags += [
            int(text.starts[article]) + i in set(text.headings.tolist()) for i in range(len(text.article(article)))
        ]
    memory, nats = dynamic_model.fresh_memory(), []
    for begin in range(0, len(ids), size):
        targets = np.array([ids[begin : begin + size]])
        inputs = np.array([[text.start_token if begin == 0 else ids[begin - 1], *targets[0][:-1]]])
        is_first, n = np.array([begin == 0]), targets.shape[1]
        heading = np.array([any(flags[begin : begin + n])])
        segment = Segment(inputs, targets, np.ones((1, n), bool), is_first, heading, np.array([[0, begin]]), size)
        nats_BT, memory = read_segment(dynamic_model, memory, segment)
        nats.append(nats_BT[0].numpy())
    return np.concatenate(nats)


@pytest.mark.parametrize("order", [ArticleOrder(), ArticleOrder("shuffled", 5)], ids=str)
@pytest.mark.parametrize("memory", VARIANTS, ids=lambda memory: memory["rule"])
def test_losses_are_those_of_the_articles_concatenated_by_hand(
    memory: dict[str, Any], order: ArticleOrder, tuned_copy: Run, valid: TokenisedSplit
) -> None:
    config = untold(tuned_copy, track=True, **memory)
    path, scores = scored(tuned_copy.folder, config, "2-5", order=order)
    articles = order.apply([1, 2, 3, 4])
    nats = naive(tuned_copy, config, valid, articles)
    by_article = np.split(nats, np.cumsum([len(valid.article(article)) for article in articles])[:-1])
    expected = np.concatenate([by_article[articles.index(article)] for article in (1, 2, 3, 4)])
    assert np.array_equal(scores.nats, expected)
    # Every token once, by its article; a reader that is told can be compared with it.
    told = scored(tuned_copy.folder, with_memory(config, article_boundaries=True), "2-5", order=order)[1]
    read = read_scores(path)
    for column in ("article", "position", "token", "words"):
        assert np.array_equal(getattr(read, column), getattr(told, column))
    assert read.surface == told.surface and not np.array_equal(read.nats, told.nats)
    assert len(np.unique(read.segment)) == -(-len(nats) // 20)
    assert (read.distance is None) == (memory["rule"] == "none") == (read.reset_share is None)
    comparison = compare([told, read])
    assert [each.label for each in comparison.variants] == [told.variant, f"{told.variant} without boundaries"]
    statement = str(comparison.variants[1].protocol["statement"])
    assert "the articles are read as one text" in statement and "afresh with each article" not in statement
    assert read.protocol["article_boundaries"] is False and "article_boundaries" not in told.protocol
    assert readable_name(path).endswith("joined" if not order.seed else "joined-shuffled-5")
    done = verify(path)
    assert done.holds and (done.compared, done.differing) == (len(nats), 0), done.to_text()
    some = verify(path, tokens=50)
    assert some.holds and some.compared == 60


@pytest.mark.parametrize("memory", VARIANTS, ids=lambda memory: memory["rule"])
def test_one_article_is_read_bit_for_bit_as_by_a_reader_that_is_told(memory: dict[str, Any], tuned_copy: Run) -> None:
    config = untold(tuned_copy, track=True, **memory)
    alone = scored(tuned_copy.folder, config, "3")[1]
    told = scored(tuned_copy.folder, with_memory(config, article_boundaries=True), "3")[1]
    for column in ("nats", "segment", "distance", "reset_share", "token"):
        one, other = getattr(alone, column), getattr(told, column)
        assert (one is None) == (other is None) and (one is None or one.tobytes() == other.tobytes()), column


@pytest.mark.parametrize("memory", VARIANTS, ids=lambda memory: memory["rule"])
def test_no_earlier_loss_feels_a_later_token(
    memory: dict[str, Any], tuned_run: Run, trained: TrainedModel, valid: TokenisedSplit
) -> None:
    config = untold(tuned_run, **memory)
    dynamic_model, dice = opened(tuned_run.folder, config).dynamic_model(), random.Random(1)
    order = [3, 0, 4]
    rows = np.concatenate([valid.rows(article) for article in order])
    before = evaluate_joined(Evaluation(dynamic_model, valid, order, 20))
    index = {int(row): n for n, row in enumerate(np.concatenate([valid.rows(article) for article in sorted(order)]))}
    for _ in range(3):
        flipped = dice.randrange(1, len(rows))
        ids_N = valid.ids_N.copy()
        ids_N[rows[flipped]] = (ids_N[rows[flipped]] + 1) % trained.model.vocab_size
        changed = dataclasses.replace(valid, ids_N=ids_N)
        after = evaluate_joined(Evaluation(dynamic_model, changed, order, 20))
        read_before = [index[int(row)] for row in rows[:flipped]]
        assert np.array_equal(after.nats[read_before], before.nats[read_before])
        assert after.nats[index[int(rows[flipped])]] != before.nats[index[int(rows[flipped])]]


def test_it_resumes_wherever_it_is_killed(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config, order = untold(tuned_copy, track=True, **VARIANTS[3]), ArticleOrder("shuffled", 2)
    path, _ = scored(tuned_copy.folder, config, order=order)
    whole, save, dice = read_scores(path), Checkpoints.save, random.Random(3)
    path.unlink()

    def save_or_die(self: Checkpoints, *state: Any) -> Path:
        saved = save(self, *state)
        if dice.random() < 0.2:
            raise Killed
        return saved

    monkeypatch.setattr(Checkpoints, "save", save_or_die)
    for deaths in itertools.count():
        assert deaths < 100
        try:
            scored(tuned_copy.folder, often(config), order=order)
            break
        except Killed:
            pass
    assert deaths >= 2
    assert_same_scores(read_scores(path), whole)


def test_a_rejected_update_is_located_in_its_article(
    tuned_run: Run, valid: TokenisedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamic_model = opened(tuned_run.folder, untold(tuned_run, rule="sgd", lr=1e6)).dynamic_model()
    evaluation = Evaluation(dynamic_model, valid, [5, 2, 0], 20)
    first = evaluate_joined(evaluation).protocol["update_filter"]["first"]
    assert first and first == evaluate(dataclasses.replace(evaluation, articles=[5])).protocol["update_filter"]["first"]
    # A segment that begins in the second article read, by the position of its first token there.
    begins = -(-(len(valid.article(5)) + 45) // 20) * 20
    monkeypatch.setattr(evaluating, "first_of", lambda *_: {"output.bias": (0, begins)})
    first = evaluate_joined(evaluation).protocol["update_filter"]["first"]
    assert first == {"output.bias": {"article": 2, "segment": (begins - len(valid.article(5))) // 20}}


def test_rates_and_caches_are_kept_apart_from_those_of_a_reader_that_is_told(tuned_copy: Run) -> None:
    config = untold(tuned_copy, rule="rms")
    message = "not tuned for reset 'stream-joined'; .* --memory.reset stream --memory.article_boundaries false` first$"
    with pytest.raises(UserError, match=message):
        scored(tuned_copy.folder, config)
    store = opened(tuned_copy.folder, config).store
    told = store.load_tuned("rms", "stream")
    found = tune(tuned_copy.folder, config)
    assert found["reset"] == "stream-joined" and found["articles"] == told["articles"]
    assert found["tokens"] == told["tokens"] and found["nats_per_token"] != told["nats_per_token"]
    assert found["tuned_on"] == told["tuned_on"]
    assert store.load_tuned("rms", "stream") == told
    found = tune_cache(tuned_copy.folder, with_memory(config, cache="fixed"))
    assert found["reset"] == "stream-joined" and found["without_cache_nats_per_token"] > 0
    cached = scored(tuned_copy.folder, with_memory(config, cache="fixed"))[1]
    assert cached.protocol["tuned_on"][0] == told["tuned_on"][0]
    assert {record["what"] for record in cached.protocol["tuned_on"]} == {"rates", "cache"}
    with pytest.raises(UserError, match="no cache tuned"):
        scored(tuned_copy.folder, with_memory(config, cache="fixed", article_boundaries=True))


def test_what_needs_boundaries_is_refused(tuned_copy: Run, tmp_path: Path) -> None:
    for options, message in (
        ({"reset": "article"}, "memory.reset is 'article', but .* nothing tells"),
        ({"lanes": 2}, "memory.lanes is 2, but .* one text"),
        ({"lanes": 2, "rule": "none"}, "memory.lanes is 2, but .* one text"),
    ):
        with pytest.raises(UserError, match=message):
            StepOptions(article_boundaries=False, **options)  # type: ignore[arg-type]
    config = untold(tuned_copy, **VARIANTS[1])
    told = with_memory(config, article_boundaries=True)
    read_into(tmp_path / "kept.safetensors", tuned_copy.folder, told, ["The old town."])
    for attempt in (
        lambda: Session.open(opened(tuned_copy.folder, config)),
        lambda: scored(tuned_copy.folder, config, memory_file=tmp_path / "kept.safetensors"),
    ):
        with pytest.raises(UserError, match="a reading in sittings knows where each text begins; .*boundaries true$"):
            attempt()
    path = scored(tuned_copy.folder, config)[0]
    with pytest.raises(UserError, match="all articles are one text|depend on those before"):
        verify(path, articles="1")
    level_1 = scored(tuned_copy.folder, untold(tuned_copy, rule="none"))[0]
    with pytest.raises(UserError, match="all articles are one text"):
        verify(level_1, articles="1")


def test_the_check_holds(tuned_copy: Run) -> None:
    checks = check_protocol(opened(tuned_copy.folder, untold(tuned_copy, **VARIANTS[1])), "valid", places=4, tokens=70)
    assert len(checks) == 4 and all(check.kept for check in checks)
    assert "stopped after 5 of 11 segments" in checks[2].tried  # 210 tokens in one piece


def test_the_command_line(tuned_copy: Run, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["score", str(tuned_copy.folder), "--memory.rule", "meta", "--memory.article_boundaries", "false"]
    assert main([*command, "--articles", "1-4"]) == 0
    out = capsys.readouterr().out
    assert "meta without boundaries" in out and "read as one text" in " ".join(out.split())
    assert main([*command, "--memory.reset", "article"]) == 2
    assert "memory.reset is 'article'" in capsys.readouterr().err
