"""A score file is read again: what holds holds bit for bit, and what does not is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.evaluation.checks import verify as verifying
from dynlm.evaluation.checks.verify import verify
from dynlm.evaluation.protocol import ArticleOrder
from dynlm.evaluation.score_file import read_scores
from dynlm.run.folder import load_tensors, save_tensors
from tests.tiny import Run, scored, with_memory
from tests.trainings import tune


def file_of(run: Run, articles: str | None = "4-6", order: str = "in order", **memory: Any) -> Path:
    return scored(run.folder, with_memory(run.config, **memory), articles, order=ArticleOrder(order, 3))[0]


def with_column(path: Path, name: str, row: int, value: Any) -> None:
    """Replace one value of a score file."""
    table = pq.read_table(path)
    column = table.column(name).to_pylist()
    column[row] = value
    place = table.schema.get_field_index(name)
    table = table.set_column(place, table.schema.field(name), pa.array(column, table.schema.field(name).type))
    pq.write_table(table, path, write_page_checksum=True)


def with_protocol(path: Path, **changes: Any) -> None:
    table = pq.read_table(path)
    protocol = {**json.loads(table.schema.metadata[b"dynlm"]), **changes}
    pq.write_table(table.replace_schema_metadata({b"dynlm": json.dumps(protocol).encode()}), path)


@pytest.mark.parametrize(
    "memory",
    [
        {"rule": "none"},
        {"rule": "rms"},
        {"rule": "meta", "reset": "article"},
        {"rule": "rms", "no_regret": True, "cache": "fixed", "cache_window": 50, "cache_inverse_temperature": [0.5]},
        {"rule": "rms", "reset": "article", "lanes": 3},
    ],
    ids=["level 1", "rms", "meta", "mixture and cache", "lanes"],
)
def test_every_variant_holds_bit_for_bit(tuned_copy: Run, memory: dict[str, Any]) -> None:
    if "cache" in memory:
        memory = {**memory, "cache_share": 0.1}
    done = verify(file_of(tuned_copy, **memory))
    assert done.holds and not [reported for reported in done.changed if "uncommitted changes" not in reported]
    assert (done.compared, done.differing, done.largest, done.tolerance) == (done.tokens, 0, 0.0, 0.0)


def test_a_shuffled_reading_holds(tuned_copy: Run) -> None:
    done = verify(file_of(tuned_copy, None, "shuffled", rule="rms"))
    assert done.holds and done.compared == done.tokens


def test_one_changed_loss_is_named_by_its_token(tuned_copy: Run) -> None:
    path = file_of(tuned_copy, rule="rms")
    scores = read_scores(path)
    row = int(scores.starts[1]) + 17
    changed = np.nextafter(scores.nats[row], np.float32(np.inf))
    with_column(path, "nats", row, changed)
    done = verify(path)
    assert not done.holds and done.differing == 1
    (reported,) = done.broken
    surface = scores.surface[row].decode()
    assert reported.startswith(
        f"token 17 of article 5 ({surface!r}): {changed:.9g} nats then, {scores.nats[row]:.9g} now"
    )
    assert reported.count("more") == 0


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("surface", b"other", "surface 'other' then, "),
        ("token", 3, "token 3 then, "),
        ("words", 7, "words 7 then, "),
    ],
)
def test_a_changed_row_is_named_by_its_token(column: str, value: object, message: str, tuned_copy: Run) -> None:
    path = file_of(tuned_copy, rule="rms")
    scores = read_scores(path)
    row = int(scores.starts[1]) + 17
    assert getattr(scores, column)[row] != value
    with_column(path, column, row, value)
    done = verify(path)
    assert not done.holds and len(done.broken) == 1
    assert f"row {row + 1}, token 17 of article 5" in done.broken[0] and message in done.broken[0]


def test_a_part_can_be_read_again(tuned_copy: Run) -> None:
    path = file_of(tuned_copy, rule="rms", reset="article")
    few = verify(path, articles="5")
    scores = read_scores(path)
    assert few.holds and few.compared == int(np.diff(scores.starts)[1])
    some = verify(file_of(tuned_copy, rule="rms"), tokens=50)
    assert some.holds and 50 <= some.compared < 70
    with_column(path, "nats", len(scores) - 1, 1.0)
    assert verify(path, articles="5").holds and verify(path, tokens=50).holds
    assert not verify(path, articles="5-6").holds
    for wrong in ({"articles": "1"}, {"articles": "5-9"}, {"tokens": 0}, {"tolerance": float("nan")}):
        with pytest.raises(UserError):
            verify(path, **wrong)


def test_articles_that_depend_on_others_are_not_read_alone(tuned_copy: Run) -> None:
    with pytest.raises(UserError, match="depend on those before"):
        verify(file_of(tuned_copy, rule="rms"), articles="5")
    assert verify(file_of(tuned_copy, rule="none"), articles="5").holds
    with pytest.raises(UserError, match="3 lanes"):
        verify(file_of(tuned_copy, rule="rms", reset="article", lanes=3), articles="5")


def test_another_model_text_or_memory_does_not_hold(tuned_copy: Run, tmp_path: Path) -> None:
    path = file_of(tuned_copy, rule="rms")
    tuned = tuned_copy.folder / "memory" / "tuned.json"
    before = tuned.read_text()
    content = json.loads(before)
    content["rms"]["stream"]["lr"] *= 2
    tuned.write_text(json.dumps(content))
    (reported,) = verify(path).broken
    assert "tuned or learned anew" in reported
    tuned.write_text(before)
    assert verify(path).holds

    corpus = shutil.copytree(tuned_copy.corpus, tmp_path / "text")
    assert verify(path, corpus_path=str(corpus)).holds
    text = (corpus / "valid.txt").read_text()
    (corpus / "valid.txt").write_text(text[:-60] + text[-60:].replace("the", "teh").replace("was", "saw"))
    (reported,) = verify(path, corpus_path=str(corpus)).broken
    assert "article 6" in reported

    card = json.loads((tuned_copy.folder / "model.json").read_text())
    with_protocol(path, model="0123456789abcdef")
    (reported,) = verify(path).broken
    assert reported == f"the model is {card['fingerprint']}, the text was read with 0123456789abcdef"


def test_other_gradient_statistics_break_a_score_file(tuned_copy: Run) -> None:
    path = file_of(tuned_copy, rule="rms")
    place = tuned_copy.folder / "memory" / "statistics.safetensors"
    tensors, about = load_tensors(place)
    save_tensors(place, {name: tensor * 1.001 for name, tensor in tensors.items()}, about)
    assert "the constants of the memory changed" in verify(path).broken[0]


def test_another_machine_may_round_differently_and_is_reported(tuned_copy: Run) -> None:
    path = file_of(tuned_copy, rule="rms")
    platform = read_scores(path).protocol["platform"]
    with_protocol(path, platform={**platform, "processor": "another"})
    nats = read_scores(path).nats
    with_column(path, "nats", 7, nats[7] + 1e-4)
    done = verify(path)
    assert done.holds and done.differing == 1 and done.largest == pytest.approx(1e-4, rel=0.1)
    assert any("processor another then" in line for line in done.changed)
    assert not verify(path, tolerance=1e-5).holds
    with_column(path, "nats", 7, nats[7] + 0.1)
    assert not verify(path).holds


def test_it_uses_as_many_threads_as_the_scoring(tuned_copy: Run) -> None:
    path = file_of(tuned_copy, rule="rms")
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert verify(path, tokens=200).holds
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_unverifiable_files_are_refused_with_the_reason(tuned_copy: Run, tmp_path: Path) -> None:
    path = file_of(tuned_copy, rule="none")
    shutil.copy(path, tmp_path / "alone.parquet")
    with pytest.raises(UserError, match="no run around this score file"):
        verify(tmp_path / "alone.parquet")
    options = read_scores(path).protocol["options"]
    with_protocol(path, options={**options, "memory": {**options["memory"], "segment": "long"}})
    with pytest.raises(UserError, match=r"memory\.segment is 'long'"):
        verify(path)
    with_protocol(path, options=None)
    with pytest.raises(UserError, match="does not tell its options"):
        verify(path)


def test_the_command_exits_with_1_where_a_file_does_not_hold(
    tuned_copy: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = file_of(tuned_copy, rule="none"), file_of(tuned_copy, rule="rms")
    capsys.readouterr()
    assert main(["verify", str(tuned_copy.folder), "--tokens", "100"]) == 0
    assert capsys.readouterr().out.count("all bit for bit") == 2
    with_column(bad, "nats", 3, 0.25)
    assert main(["verify", str(tuned_copy.folder), "--json"]) == 1
    reported = json.loads(capsys.readouterr().out)
    assert reported["holds"] is False
    assert {each["path"]: each["holds"] for each in reported["files"]} == {str(good): True, str(bad): False}
    assert main(["verify", str(bad)]) == 1
    assert "token 3 of article 4" in capsys.readouterr().out


def test_tuning_twice_finds_the_same(tuned_copy: Run) -> None:
    """Tuning anew with the same seed leaves a score file as it was."""
    path = file_of(tuned_copy, rule="sgd")
    tune(tuned_copy.folder, with_memory(tuned_copy.config, rule="sgd"))
    assert verify(path).holds


def test_minus_zero_is_not_zero(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_of(tuned_copy, rule="rms")
    with_column(path, "nats", 5, 0.0)
    whole = verifying.read_again

    def with_minus_zero(*given: Any) -> tuple[np.ndarray, np.ndarray]:
        rows_N, nats_N = whole(*given)
        nats_N[5] = -0.0
        return rows_N, nats_N

    monkeypatch.setattr(verifying, "read_again", with_minus_zero)
    done = verify(path)
    assert not done.holds and done.differing == 1 and done.largest == 0.0
    assert "0 nats then, -0 now" in done.broken[0]


@pytest.mark.parametrize(
    "order", ["backwards", "shuffled", "shuffled, seed -1", "shuffled, seed x", f"shuffled, seed {'9' * 5000}", ""]
)
def test_an_unknown_order_is_refused_in_one_line(tuned_copy: Run, order: str) -> None:
    path = file_of(tuned_copy, rule="none")
    with_protocol(path, order=order)
    with pytest.raises(UserError, match=r"which is no order") as refused:
        verify(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("position", [-1, 10**9, 3, -(2**31)])
def test_a_position_that_is_not_the_rows_own_is_named(tuned_copy: Run, position: int) -> None:
    path = file_of(tuned_copy, rule="none")
    with_column(path, "position", 7, position)
    (reported,) = verify(path).broken
    assert reported.startswith("row 8, ") and reported.endswith(f"position {position} then, 7 now")


def test_articles_out_of_order_or_from_nowhere_are_named(tuned_copy: Run) -> None:
    path = file_of(tuned_copy, rule="none")
    table = pq.read_table(path)
    protocol = json.loads(table.schema.metadata[b"dynlm"])
    for moved, reported in (({3: 5, 5: 3}, "split's own order"), ({5: 10**6}, "is none"), ({3: -7}, "is none")):
        article = pa.array([moved.get(index, index) for index in table.column("article").to_pylist()], pa.int32())
        about = [{**entry, "index": moved.get(entry["index"], entry["index"])} for entry in protocol["articles"]]
        metadata = {b"dynlm": json.dumps({**protocol, "articles": about}).encode()}
        place = table.schema.get_field_index("article")
        changed = table.set_column(place, table.schema.field("article"), article)
        pq.write_table(changed.replace_schema_metadata(metadata), path)
        assert reported in verify(path).broken[0]


STRANGE = [-1, 10**400, 1e308, None, [], {}, "", "\ud800", True, [{"index": 10**40}], "x" * 9999]


@pytest.mark.parametrize("name", ["split", "order", "model", "tokenizer", "text", "reader", "options", "articles"])
def test_malformed_protocol_values_are_refused_in_one_line(tuned_copy: Run, name: str) -> None:
    path = file_of(tuned_copy, rule="rms")
    for value in STRANGE:
        with_protocol(path, **{name: value})
        try:
            done = verify(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert not done.holds, value


@pytest.mark.parametrize("name", ["segment", "lanes", "lr", "switch_share", "cache_window", "dynamic", "g", "rule"])
def test_malformed_options_in_a_protocol_are_refused_in_one_line(tuned_copy: Run, name: str) -> None:
    path = file_of(tuned_copy, rule="rms")
    options = read_scores(path).protocol["options"]
    for value in (-1, 10**400, -1e308, "\ud800", [], {}):
        with_protocol(path, options={**options, "memory": {**options["memory"], name: value}})
        with pytest.raises(UserError) as refused:
            verify(path)
        assert "\n" not in str(refused.value)
