"""Meta-training on several kinds of text, and on articles read as one text: shares, records, refusals."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynlm.data.articles import corpus_named
from dynlm.data.options import CorpusOptions
from dynlm.data.stream import Stream
from dynlm.errors import UserError
from dynlm.evaluation.overlap import overlaps
from dynlm.runtime.distributed import Processes
from dynlm.train.config import Config
from dynlm.train.meta_texts import meta_texts, outer_stream, single_pass
from tests.tiny import Run, listing, opened, scored, with_memory
from tests.train.test_resuming import SHORT, run, stopped_after
from tests.trainings import finetune, metatrain, train_gate

LETTERS = "bcdfghjklmnpqrstvwxz"


def write_texts(folder: Path, articles: int, words: int, letter: str) -> Path:
    """Write articles of a made-up language, each a file, whose words begin with ``letter``."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(letter) + articles)
    for number in range(articles):
        text = " ".join(letter + "".join(rng.choice([*LETTERS], 3)) for _ in range(words))
        (folder / f"{number:02}.txt").write_text(f"{text}\n")
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Two kinds of text: many short articles, and three longer ones, of which no split can be held out."""
    return [str(write_texts(tmp_path / "many", 24, 12, "q")), str(write_texts(tmp_path / "few", 3, 60, "z"))]


def with_texts(config: Config, texts: list[str], **options: Any) -> Config:
    metatrain = dataclasses.replace(config.metatrain, texts=texts, **options)
    return dataclasses.replace(config, metatrain=metatrain)


def stream_of(run: Run, config: Config) -> tuple[Stream, Any]:
    opened_run = opened(run.folder, config)
    found = meta_texts(opened_run)
    return outer_stream(opened_run, found, config.metatrain, Processes()), found


def kind_of(surfaces: list[bytes]) -> str:
    text = b"".join(surfaces).strip()
    return {b"q": "many", b"z": "few"}.get(text[:1], "own")


def test_articles_of_all_kinds_alternate_in_equal_shares(tuned_run: Run, texts: list[str]) -> None:
    config = with_texts(tuned_run.config, texts, tokens=4000)
    stream, found = stream_of(tuned_run, config)
    assert [(text.name, text.splits) for text in found] == [
        ("meta", ("meta",)),
        (texts[0], ("train", "meta")),
        (texts[1], ("train",)),
    ]
    counts, position, longest = dict.fromkeys(("own", "many", "few"), 0), stream.begin(), 0
    kinds: list[str] = []
    while position.tokens < 4000:
        segment, position = stream.next(position)
        assert segment is not None
        article = int(segment.position_B2[0, 0])
        kind = kind_of(stream.split.surfaces(article))
        kinds += [kind] if segment.starts_B[0] else []
        counts[kind] += segment.tokens
        longest = max(longest, len(stream.split.article(article)))
    assert max(counts.values()) - min(counts.values()) <= longest
    assert kinds[:3] == ["own", "many", "few"]
    # The short articles are read more often, several between two of the others.
    assert kinds.count("many") > 2 * kinds.count("few") > 4
    # An article is held once, however often it is read.
    assert stream.split.articles == sum(len(text.pieces()) for text in found) < len(stream.order)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("named", [False, True], ids=["own text", "three kinds"])
def test_each_lane_reads_its_share_as_one_text(lanes: int, named: bool, tuned_run: Run, texts: list[str]) -> None:
    config = with_memory(tuned_run.config, article_boundaries=False)
    config = with_texts(config, texts if named else [], tokens=3000, lanes=lanes)
    stream, found = stream_of(tuned_run, config)
    window = -(-config.metatrain.window // lanes) * lanes * config.memory.segment
    position, starts = stream.begin(), 0
    while position.tokens < 3000 + window - lanes * 20:
        segment, position = stream.next(position)
        assert segment is not None and segment.mask_BT.all()
        starts += int(segment.starts_B.sum())
    assert starts == lanes and stream.split.articles == lanes
    pieces = [piece for text in found for piece in text.pieces()]
    whole = [piece.split.article(piece.article).tolist() for piece in pieces]
    for lane in range(lanes):
        ids = stream.split.article(lane).tolist()
        while ids:  # the lane is made of whole articles
            (length,) = {len(article) for article in whole if ids[: len(article)] == article}
            del ids[:length]


def test_the_card_and_score_files_say_what_g_learned_on(tuned_copy: Run, texts: list[str]) -> None:
    config = with_texts(with_memory(tuned_copy.config, rule="meta", g="kinds"), texts, lanes=2)
    done = metatrain(tuned_copy.folder, config)
    own, many, few = done["texts"]
    assert (own["text"], many["text"], few["splits"]) == ("meta", texts[0], ["train"])
    assert [each["articles"] for each in done["texts"]] == [3, 20, 3]
    assert [each["passes"] * each["tokens"] for each in done["texts"]] == pytest.approx([400.0] * 3)
    assert done["passes"] == own["passes"]
    learned = [record for record in done["tuned_on"] if record["how"] == "learned"]
    assert [(record["corpus"], record["split"], record["articles"]) for record in learned] == [
        (str(tuned_copy.corpus), "meta", "1-3"),
        (texts[0], "train", "1-17"),
        (texts[0], "meta", "1-3"),
        (texts[1], "train", "1-3"),
    ]
    picked = [record for record in done["tuned_on"] if record["what"] == "g" and record["how"] == "picked"]
    assert [(record["corpus"], record["split"]) for record in picked][1:] == [(texts[0], "valid")]
    card = json.loads((tuned_copy.folder / "memory" / "kinds-stream.json").read_text())
    assert card["texts"] == done["texts"] and card["tuned_on"] == done["tuned_on"]
    # A figure on the articles that g learned on or was picked by is marked, one on the others is not.
    corpus = dataclasses.replace(config.corpus, path=texts[0])
    marked = {}
    for split in ("train", "valid", "test"):
        protocol = scored(tuned_copy.folder, dataclasses.replace(config, corpus=corpus), split=split)[1].protocol
        marked[split] = [(each["what"], each["articles"], each["of"]) for each in overlaps(protocol)]
    assert marked == {"train": [("g", 17, 17)], "valid": [("g", 2, 2)], "test": []}


def test_without_texts_nothing_is_added_to_the_card(tuned_run: Run) -> None:
    card = json.loads((tuned_run.folder / "memory" / "meta-stream.json").read_text())
    assert not {"texts", "article_boundaries"} & card.keys()


def test_g_learned_on_one_text_reads_with_and_without_boundaries(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="meta", g="glued", article_boundaries=False)
    done = metatrain(tuned_copy.folder, config)
    assert done["article_boundaries"] is False
    store = opened(tuned_copy.folder, config).store
    joined = store.load_tuned("rms", "stream-joined")  # tuned first, as g starts there
    assert joined is not None and done["start"]["lr"] == joined["lr"]
    assert done["tuning_nats_per_token"]["start"] == pytest.approx(joined["nats_per_token"], abs=1e-5)
    without = scored(tuned_copy.folder, config)[1]
    told = scored(tuned_copy.folder, with_memory(config, article_boundaries=True))[1]
    assert not np.array_equal(without.nats, told.nats)
    assert without.protocol["tuned_on"] == told.protocol["tuned_on"] == done["tuned_on"]


def test_finetuning_and_a_gate_read_one_text(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms", article_boundaries=False, lr=1e-3, decay=1e-3, epsilon=1e-3)
    config.finetune = dataclasses.replace(config.finetune, tokens=800, window=8, lanes=2)
    done = finetune(tuned_copy.folder, config)
    assert done["tuning_nats_per_token"].keys() == {"start", "halfway", "learned"}
    gated = with_memory(config, cache="learned")
    done = train_gate(tuned_copy.folder, gated)
    assert (
        done["reset"] == "stream-joined" and len(opened(tuned_copy.folder, gated).split("meta").ids_N) == done["tokens"]
    )
    assert scored(tuned_copy.folder, gated)[1].variant == "rms + gated cache without boundaries"


@pytest.mark.parametrize("boundaries", [True, False])
def test_a_gate_learns_on_each_article_once_until_a_text_ends(
    boundaries: bool, tuned_copy: Run, texts: list[str]
) -> None:
    config = with_memory(tuned_copy.config, rule="none", article_boundaries=boundaries, cache="learned")
    config = with_texts(config, texts, tokens=0)
    opened_run = opened(tuned_copy.folder, config)
    found = meta_texts(opened_run)
    stream = single_pass(opened_run, found, 0)
    assert stream.split.articles == len(stream.order) and (stream.split.articles == 1) != boundaries
    done = train_gate(tuned_copy.folder, config)
    shortest = min(text.tokens for text in found)
    assert done["tokens"] == len(stream.split.ids_N) and 0 <= done["tokens"] / 3 - shortest < shortest / 2
    learned = [(each["what"], each["corpus"]) for each in done["tuned_on"] if each["how"] == "learned"]
    assert learned == [("gate", corpus) for corpus in (str(tuned_copy.corpus), texts[0], texts[0], texts[1])]


def test_texts_that_cannot_be_are_refused(tuned_copy: Run, texts: list[str], tmp_path: Path) -> None:
    held_out = tmp_path / "held-out"
    (held_out / "valid").mkdir(parents=True)
    (held_out / "valid" / "a.txt").write_text("only a text to report on\n")
    own, before = str(tuned_copy.corpus), listing(tuned_copy.folder)
    for named, message in (
        ([own], "metatrain.texts names .*, which is the run's own corpus"),
        ([texts[0], texts[0]], "which is named twice; take it out"),
        (["no-such-text"], "names 'no-such-text', which is no source and no file; name .*code:, docs:, stdlib"),
        (["docs:nowhere0"], "metatrain.texts names 'docs:nowhere0': .* is not installed"),
        ([str(held_out)], "which has no training articles"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            metatrain(tuned_copy.folder, with_texts(with_memory(tuned_copy.config, g="refused"), named))
        assert "\n" not in str(refused.value)
    assert listing(tuned_copy.folder) == before


def test_a_text_is_named_as_a_source_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_texts(tmp_path / "stdlib", 1, 5, "q").parent)
    own = CorpusOptions(path="own", format="wikitext", subset="en", limit=7)
    assert corpus_named("stdlib", own, "texts") == CorpusOptions(source="stdlib", limit=7)
    assert corpus_named("./stdlib", own, "texts") == CorpusOptions(path="./stdlib", limit=7)
    assert corpus_named("stdlib/00.txt", own, "texts") == CorpusOptions(path="stdlib/00.txt", limit=7)
    assert corpus_named("owner/name", own, "texts") == CorpusOptions(source="owner/name", limit=7)
    assert corpus_named("code:json,ast", own, "texts") == CorpusOptions(source="code:json,ast", limit=7)
    for name in ("nowhere", "/no/where", "no/such/file", "./no"):
        with pytest.raises(UserError, match="texts names .* no source and no file"):
            corpus_named(name, own, "texts")


def test_a_checkpoint_of_other_texts_is_refused(
    tuned_copy: Run, texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["metatrain", tuned_copy.folder, "--memory.g", "g", *SHORT]
    named = [*words, "--metatrain.texts", f"[{','.join(texts)}]"]
    assert stopped_after(2, signal.SIGTERM, *named) == 143
    capsys.readouterr()
    assert run(*words) == 2
    assert "this checkpoint was made with the text [" in capsys.readouterr().err
    changed = Path(texts[1]) / "00.txt"
    content = changed.read_text()
    changed.write_text(f"{content} more\n")
    assert run(*named) == 2
    assert "this checkpoint was made with the text [" in capsys.readouterr().err
    changed.write_text(content)
    assert run(*named) == 0
    said = capsys.readouterr().out
    assert "learned on 700 tokens in equal shares: " in said and f" over {texts[1]}\n" in said
