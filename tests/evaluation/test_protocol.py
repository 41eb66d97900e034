"""The protocol of a reading, and the orders of its articles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynlm.adapt.options import MemoryOptions
from dynlm.errors import UserError
from dynlm.evaluation.compare import check_same_text, unique_labels
from dynlm.evaluation.protocol import ArticleOrder, resume_key, scoring_key
from dynlm.evaluation.score_file import read_scores
from dynlm.run.folder import TrainedModel
from dynlm.runtime.validation import section_of
from tests.tiny import Run, readable_name, rescored, scored, with_memory


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


def test_keys_tell_scorings_apart_and_the_date_does_not(tuned_copy: Run) -> None:
    protocol = scored(tuned_copy.folder, with_memory(tuned_copy.config, rule="rms"))[1].protocol
    for name in ("model", "tokenizer", "text", "order", "reader", "reset", "segment"):
        assert scoring_key({**protocol, name: "another"}) != scoring_key(protocol), name
        assert resume_key({**protocol, name: "another"}) != resume_key(protocol), name
    assert (
        scoring_key({**protocol, "reading": {"context": 8}})
        != scoring_key(protocol)
        == scoring_key({**protocol, "reading": {}, "cost": {"seconds": 9.0}})
    )
    options = {**protocol["options"], "memory": {**protocol["options"]["memory"], "lanes": 7}}
    assert scoring_key({**protocol, "options": options}) != scoring_key(protocol)
    later = {**protocol, "date": "2999-01-01T00:00:00+0000"}
    assert scoring_key(later) == scoring_key(protocol) and resume_key(later) == resume_key(protocol)
    newer = {**protocol, "versions": {"torch": "99"}, "commit": "another"}
    assert scoring_key(newer) == scoring_key(protocol) and resume_key(newer) != resume_key(protocol)


def test_a_scoring_of_an_earlier_version_is_found_again() -> None:
    kept = read_scores(Path(__file__).parents[1] / "golden" / "run" / "scores" / "kept.parquet").protocol
    earlier = kept["options"]["memory"]
    now = dict(vars(section_of(MemoryOptions, earlier)))
    assert now.keys() - earlier.keys() > {"lora_rank", "gate", "merge_every"}
    for memory, found in ((now, True), ({**now, "merge_every": 2}, False), ({**now, "lora_rank": 4}, False)):
        protocol = {**kept, "options": {**kept["options"], "memory": memory}}
        assert (scoring_key(protocol) == scoring_key(kept)) == found
