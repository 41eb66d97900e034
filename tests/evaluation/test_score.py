"""Scoring: one row for each token, level 1 as the model's own loss, and lanes, orders and files that agree."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dynlm.adapt.loop import iter_segments
from dynlm.data.articles import load_articles
from dynlm.data.stream import read_in_order
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation import score as scoring
from dynlm.evaluation.checks.protocol import check_protocol
from dynlm.evaluation.checks.stress import stress_test
from dynlm.evaluation.compare import check_same_text, unique_labels
from dynlm.evaluation.evaluate import Evaluation, evaluate, explain_out_of_memory
from dynlm.evaluation.protocol import ArticleOrder
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.evaluation.score_path import Output, file_stem, resume_key, scoring_key
from dynlm.models.protocol import token_nats
from dynlm.run import run as opening
from dynlm.run.folder import TrainedModel, load_model
from dynlm.run.rule_store import open_reader
from dynlm.train import gate as gates
from dynlm.train.config import Config
from tests.tiny import Run, listing, opened, readable_name, scored, with_memory

VARIANTS = [("none", "stream"), ("sgd", "stream"), ("rms", "stream"), ("rms", "article"), ("meta", "article")]


@pytest.fixture(scope="module")
def trained(tuned_run: Run) -> TrainedModel:
    return load_model(tuned_run.folder)


@pytest.fixture(scope="module")
def valid(tuned_run: Run, trained: TrainedModel) -> TokenisedSplit:
    return tokenise(load_articles(tuned_run.config.corpus, "valid"), trained.tokenizer)


def rescored(run: Run, config: Config, split: str = "valid", articles: str | None = None) -> tuple[Path, Scores]:
    return scored(run.folder, config, articles, split=split, force=True)


@pytest.mark.parametrize("rule, reset", VARIANTS)
def test_the_file_has_a_row_for_each_token(rule: str, reset: str, tuned_copy: Run, valid: TokenisedSplit) -> None:
    path, scores = rescored(tuned_copy, with_memory(tuned_copy.config, rule=rule, reset=reset))
    assert path.parent == tuned_copy.folder / "scores"
    assert readable_name(path) == f"valid-{rule}{'' if rule == 'none' else '-' + reset}"
    read = read_scores(path)
    assert read.token.tolist() == valid.ids_N.tolist()
    assert read.words.sum() == valid.words_N.sum()
    assert b"".join(read.surface) == valid.text.tobytes()
    assert read.article.tolist() == [a for a in range(valid.articles) for _ in valid.article(a)]
    assert read.position.tolist() == [p for a in range(valid.articles) for p in range(len(valid.article(a)))]
    assert np.array_equal(read.nats, scores.nats)
    assert {name: read.protocol[name] for name in scores.protocol} == scores.protocol


def test_a_segment_is_of_one_article_and_no_longer_than_asked(
    tuned_run: Run, trained: TrainedModel, valid: TokenisedSplit
) -> None:
    reader = open_reader(tuned_run.folder, trained, with_memory(tuned_run.config, rule="none").memory)
    scores = evaluate(Evaluation(reader, valid, range(valid.articles), 20))
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


def test_every_rule_lowers_the_loss_of_repetitive_text(tuned_copy: Run) -> None:
    """The synthetic articles repeat their own words, so learning while reading must help."""
    means = {}
    for rule in ("none", "sgd", "rms", "meta"):
        _, scores = rescored(tuned_copy, with_memory(tuned_copy.config, rule=rule), split="test")
        means[rule] = float(scores.nats.astype(np.float64).mean())
    assert all(means[rule] < means["none"] - 0.02 for rule in ("sgd", "rms", "meta")), means


@pytest.mark.parametrize("rule, reset", VARIANTS)
def test_scoring_twice_gives_the_same(rule: str, reset: str, tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule=rule, reset=reset)
    first = rescored(tuned_copy, config)[1]
    again = rescored(tuned_copy, config)[1]
    assert np.array_equal(first.nats, again.nats)
    assert {**first.protocol, "date": None} == {**again.protocol, "date": None}


@pytest.mark.parametrize("options", [{"rule": "sgd"}, {"rule": "sgd+decay", "pull": 0.0}, {"rule": "rms", "pull": 0.0}])
def test_a_rate_of_zero_is_level_1_bit_for_bit(options: dict[str, object], tuned_copy: Run) -> None:
    level_1 = rescored(tuned_copy, with_memory(tuned_copy.config, rule="none"))[1]
    zero = rescored(tuned_copy, with_memory(tuned_copy.config, rate=0.0, **options))[1]
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
    rates = {"rule": "rms", "rate": 0.01, "pull": 0.001, "epsilon": 0.001}
    stream, article = (
        rescored(tuned_copy, with_memory(tuned_copy.config, reset=reset, **rates))[1] for reset in ("stream", "article")
    )
    first = stream.rows(0)
    assert np.array_equal(stream.nats[first], article.nats[first])
    assert not np.array_equal(stream.nats, article.nats)


def test_the_protocol_describes_the_reading(tuned_copy: Run, trained: TrainedModel) -> None:
    _, scores = rescored(tuned_copy, with_memory(tuned_copy.config, rule="rms", reset="article"), articles="2-3")
    protocol = scores.protocol
    assert (protocol["variant"], protocol["level"], protocol["reset"], protocol["segment"], protocol["split"]) == (
        "rms",
        3,
        "article",
        20,
        "valid",
    )
    assert [article["index"] for article in protocol["articles"]] == [1, 2]
    assert protocol["model"] == trained.fingerprint
    (tuned,) = protocol["tuned_on"]
    assert (tuned["what"], tuned["how"], tuned["split"]) == ("rates", "tuned", "valid")
    assert tuned["corpus"] == protocol["corpus"] and tuned["split_text"] == protocol["split_text"]
    assert "score, then learn" in protocol["statement"]
    assert "start afresh with each article" in protocol["statement"]
    assert protocol["rule"]["rates"].keys() == trained.params.keys()
    level_1 = rescored(tuned_copy, with_memory(tuned_copy.config, rule="none"), articles="2-3")[1].protocol
    assert (level_1["variant"], level_1["level"]) == ("level 1", 1)
    assert level_1["text"] == protocol["text"]
    assert rescored(tuned_copy, with_memory(tuned_copy.config, rule="none"))[1].protocol["text"] != protocol["text"]


def test_a_missing_article_is_refused(tuned_copy: Run) -> None:
    before = listing(tuned_copy.folder)
    for articles in ("7", "0", "3-2", "a-b", "2-b", ""):
        with pytest.raises(UserError, match="articles is"):
            rescored(tuned_copy, tuned_copy.config, articles=articles)
    assert listing(tuned_copy.folder) == before


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_a_shuffled_reading_can_be_compared_row_by_row(reset: str, tuned_copy: Run, trained: TrainedModel) -> None:
    config = with_memory(tuned_copy.config, rule="rms", reset=reset)
    ordered = rescored(tuned_copy, config, articles="2-6")[1]
    path, shuffled = scored(tuned_copy.folder, config, "2-6", order=ArticleOrder("shuffled", 3))
    assert readable_name(path) == f"valid-2-6-rms-{reset}-shuffled-3"
    assert shuffled.protocol["order"] == "shuffled, seed 3"
    assert "articles shuffled, seed 3" in shuffled.protocol["statement"]
    check_same_text([ordered, shuffled])
    assert np.array_equal(ordered.segment, shuffled.segment)
    # Under article the order does not matter; under stream only the first article reads as if it were alone.
    assert np.array_equal(ordered.nats, shuffled.nats) == (reset == "article")
    order = ArticleOrder("shuffled", 3).apply(range(1, 6))
    assert sorted(order) == list(range(1, 6)) and order != sorted(order)
    alone = rescored(tuned_copy, config, articles=str(order[0] + 1))[1]
    assert np.array_equal(shuffled.nats[shuffled.rows(order[0])], alone.nats)
    assert unique_labels([ordered, shuffled]) == ["rms, in order", "rms, shuffled, seed 3"]


def test_another_seed_is_another_order_and_an_unknown_order_is_refused() -> None:
    assert ArticleOrder("shuffled", 0).apply(range(30)) != ArticleOrder("shuffled", 1).apply(range(30))
    assert ArticleOrder("in order", 1).apply(range(2, 5)) == [2, 3, 4]
    with pytest.raises(UserError, match="order is 'backwards'"):
        ArticleOrder("backwards")


def test_the_first_article_read_starts_at_the_static_weights(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms", track=True)
    shuffled = scored(tuned_copy.folder, config, order=ArticleOrder("shuffled", 3))[1]
    assert shuffled.distance is not None and shuffled.flush is not None
    first = ArticleOrder("shuffled", 3).apply(range(6))[0]
    assert first != 0
    home = (shuffled.article == first) & (shuffled.position < 20)
    assert (shuffled.distance[home] == 0).all() and (shuffled.distance[~home] > 0).all()
    assert (shuffled.flush[home] == 0).all() and (shuffled.flush[~home] > 0).all()


def test_file_names_tell_readings_apart(tuned_run: Run) -> None:
    memory = tuned_run.config.memory
    stems = {
        file_stem(memory.replace(rule=rule, reset=reset), split, articles)
        for rule in ("none", "sgd", "sgd+decay", "rms", "meta")
        for reset in ("stream", "article")
        for split in ("valid", "test")
        for articles in (None, "1-3")
    }
    assert len(stems) == (1 + 4 * 2) * 2 * 2
    assert not any("+" in stem or "/" in stem for stem in stems)


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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nGPU 0"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 800 bytes"),
    ],
    ids=["numpy", "gpu", "cpu"],
)
def test_out_of_memory_is_one_line_that_names_the_lanes(
    error: Exception, tuned_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(scoring, "evaluate", fail)
    config = with_memory(tuned_copy.config, rule="rms", reset="article", lanes=4)
    with pytest.raises(UserError, match=r"out of memory with memory\.lanes 4 .*choose fewer lanes") as refused:
        scored(tuned_copy.folder, config)
    assert "\n" not in str(refused.value)


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
    assert plain.distance is None and plain.flush is None
    assert np.array_equal(tracked.nats, plain.nats)
    assert read.distance is not None and read.flush is not None
    opening = read.position < 20
    assert (read.distance[opening] == 0).all()
    assert (read.distance[~opening] > 0).all()
    assert np.array_equal(read.flush == 1, opening)


def test_under_stream_the_weights_stay_away_from_theta_0(tuned_copy: Run, trained: TrainedModel) -> None:
    config = with_memory(tuned_copy.config, rule="rms", reset="stream", track=True)
    tracked = rescored(tuned_copy, config)[1]
    assert tracked.distance is not None and tracked.flush is not None
    assert (tracked.distance[20:] > 0).all()
    rule = open_reader(tuned_copy.folder, trained, config.memory).rule
    betas = torch.cat([beta.flatten() for beta in rule.beta.values() if isinstance(beta, torch.Tensor)])
    assert (tracked.flush[:20] == 0).all()
    assert tracked.flush[20:] == pytest.approx(float(betas.mean()), rel=1e-4)
    # The same by hand, for the weights that the second segment is read with.
    reader = open_reader(tuned_copy.folder, trained, config.memory)
    text = tokenise(load_articles(tuned_copy.config.corpus, "valid"), trained.tokenizer)
    params = next(iter_segments(reader, read_in_order(text, 20, range(text.articles)))).memory.params
    weights = {name: tensor[0] for name, tensor in params.items()}
    away, home = (
        torch.cat([tensor.flatten() for tensor in tensors])
        for tensors in ([weights[n] - trained.params[n] for n in weights], [trained.params[n] for n in weights])
    )
    assert tracked.distance[25] == pytest.approx(float(away.norm() / home.norm()), rel=1e-5)


def test_scorings_that_differ_never_share_a_file(tuned_copy: Run, tmp_path: Path) -> None:
    """Another rate, another text, other articles: each keeps its file, and the first stays as it was."""
    config = with_memory(tuned_copy.config, rule="rms")
    first, scores = scored(tuned_copy.folder, config)
    content = first.read_bytes()
    corpus = shutil.copytree(tuned_copy.corpus, tmp_path / "other")
    (corpus / "valid.txt").write_text((corpus / "valid.txt").read_text().replace("the", "teh"))
    other_text = dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, path=str(corpus)))
    others = [
        scored(tuned_copy.folder, with_memory(config, rate=0.01))[0],
        scored(tuned_copy.folder, other_text)[0],
        scored(tuned_copy.folder, config, "1-2")[0],
    ]
    assert len({first, *others}) == 4
    assert first.read_bytes() == content and np.array_equal(read_scores(first).nats, scores.nats)


def test_the_same_scoring_is_not_computed_again(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_memory(tuned_copy.config, rule="rms")
    path, scores = scored(tuned_copy.folder, config)
    assert scores.path is None
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "evaluate", lambda *_: pytest.fail("read again"))
        # All of its articles by number are the same text.
        for articles in (None, "1-6"):
            again, there = scored(tuned_copy.folder, config, articles)
            assert again == path == there.path and np.array_equal(there.nats, scores.nats)
    content = path.read_bytes()
    path.write_bytes(content[:-9])  # cut short: no scoring is there
    assert scored(tuned_copy.folder, config)[1].path is None
    before = path.stat().st_mtime_ns
    forced, made = scored(tuned_copy.folder, config, force=True)
    assert forced == path and made.path is None and path.stat().st_mtime_ns > before


def test_a_score_file_can_be_named(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms")
    path, _ = scored(tuned_copy.folder, config, "1", name="mine")
    assert path == tuned_copy.folder / "scores" / "mine.parquet"
    assert scored(tuned_copy.folder, config, "1", name="mine")[1].path == path
    with pytest.raises(UserError, match="holds another scoring"):
        scored(tuned_copy.folder, config, "2", name="mine")
    scored(tuned_copy.folder, config, "2", name="mine", force=True)
    assert read_scores(path).articles.tolist() == [1]
    for name in ("", ".mine", "../mine", "a/b", "a\nb"):
        with pytest.raises(UserError, match="--name is"):
            Output(name=name)


def test_two_equal_scorings_at_once_are_refused(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms")
    path, _ = scored(tuned_copy.folder, config, "1")
    path.unlink()
    holds = (
        "import sys, time; from dynlm.runtime.files import exclusive\n"
        "with exclusive(sys.argv[1], 'it'): print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holds, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        try:
            with pytest.raises(UserError, match="this score file is in use by another process"):
                scored(tuned_copy.folder, config, "1")
        finally:
            other.kill()


def test_a_run_that_cannot_be_written_is_refused_before_reading(
    tuned_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "evaluate", lambda *_: pytest.fail("read first"))
    scores = tuned_copy.folder / "scores"
    shutil.rmtree(scores, ignore_errors=True)
    scores.write_text("no folder can be made here")
    with pytest.raises(UserError, match="cannot write"):
        scored(tuned_copy.folder, with_memory(tuned_copy.config, rule="rms"))


def test_keys_tell_scorings_apart_and_the_date_does_not(tuned_copy: Run) -> None:
    protocol = scored(tuned_copy.folder, with_memory(tuned_copy.config, rule="rms"))[1].protocol
    for name in ("model", "tokenizer", "text", "order", "reader", "reset", "segment"):
        assert scoring_key({**protocol, name: "another"}) != scoring_key(protocol), name
        assert resume_key({**protocol, name: "another"}) != resume_key(protocol), name
    options = {**protocol["options"], "memory": {**protocol["options"]["memory"], "lanes": 7}}
    assert scoring_key({**protocol, "options": options}) != scoring_key(protocol)
    later = {**protocol, "date": "2999-01-01T00:00:00+0000"}
    assert scoring_key(later) == scoring_key(protocol) and resume_key(later) == resume_key(protocol)
    newer = {**protocol, "versions": {"torch": "99"}, "commit": "another"}
    assert scoring_key(newer) == scoring_key(protocol) and resume_key(newer) != resume_key(protocol)


@pytest.mark.parametrize(
    "options", [{"rule": "sgd+decay"}, {"rule": "meta", "g": "none"}, {"rule": "rms", "cache": "fixed"}]
)
def test_missing_constants_are_reported_before_tokenising(
    options: dict[str, object], tuned_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (opening, gates):
        monkeypatch.setattr(module, "tokenise", lambda *_: pytest.fail("tokenised first"))
    config = with_memory(tuned_copy.config, reset="article", **options)
    message = r"run `dynlm (tune|metatrain) .* --memory\.reset article"
    with pytest.raises(UserError, match=message):
        rescored(tuned_copy, config)
    with pytest.raises(UserError, match=message):
        check_protocol(opened(tuned_copy.folder, config), "valid")
    with pytest.raises(UserError, match=message):
        stress_test(opened(tuned_copy.folder, config), "valid")
    if "cache" not in options:
        with pytest.raises(UserError, match=message):
            gates.tune_cache(tuned_copy.folder, with_memory(config, cache="fixed"))
        with pytest.raises(UserError, match=message):
            gates.train_gate(tuned_copy.folder, with_memory(config, cache="learned"))
