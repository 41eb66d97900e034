"""Numbers among the options are finite and bounded wherever they come from; articles are named by one notation."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlm.adapt.options import StepOptions
from dynlm.cli.main import COMMANDS, main
from dynlm.cli.parser import _first_positional, _own_parser
from dynlm.data.article_range import article_range
from dynlm.data.articles import iter_articles
from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.fewshot.learners.learner import LEARNERS
from dynlm.fewshot.options import FewShotOptions
from dynlm.fewshot.tasks.source import SOURCES
from dynlm.runtime.validation import section_of
from dynlm.study.learn_options import LearnOptions
from dynlm.study.options import StudyOptions
from dynlm.train.config import Config

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {
    (name, kind)
    for whole in (Config, FewShotOptions, StudyOptions, LearnOptions)
    for name, kind in get_type_hints(whole).items()
    if dataclasses.is_dataclass(kind)
}
SECTIONS |= {(each.section, each[name].Options) for each in (LEARNERS, SOURCES) for name in each.names()}


def options_with(wanted: type) -> list[tuple[str, Any, str, bool]]:
    """(section, its dataclass, option, whether it is a list) of each option that may be of the wanted type."""
    return [
        (section, kind, option, "list" in str(hint))
        for section, kind in sorted(SECTIONS, key=str)
        for option, hint in get_type_hints(kind).items()
        if wanted in {hint, *get_args(hint), *(one for part in get_args(hint) for one in get_args(part))}
    ]


NUMBERS = sorted({(*each,) for wanted in (int, float) for each in options_with(wanted)}, key=str)
BAD = [float("nan"), float("inf"), float("-inf"), 10**30, -1, 10**400, -(10**5000)]


@pytest.mark.parametrize("section, kind, option, is_list", NUMBERS, ids=lambda value: str(value))
def test_numbers_out_of_bounds_are_refused_by_name(section: str, kind: Any, option: str, is_list: bool) -> None:
    for bad in BAD:
        values = {"kind": "word"} if kind.__name__ == "TokenizerOptions" else {}
        value: Any = [bad] if is_list else bad
        with pytest.raises(UserError, match=rf"^{section}\.{option} is "):
            kind(**{**values, option: value})
        with pytest.raises(UserError, match=rf"^{section}\.{option} is "):
            section_of(kind, {**values, option: value})


@pytest.mark.parametrize("section, kind, option, is_list", options_with(str), ids=lambda value: str(value))
def test_lone_surrogates_are_refused_by_name(section: str, kind: Any, option: str, is_list: bool) -> None:
    if option == "variants":
        return
    with pytest.raises(UserError, match=rf"^{section}\.{option} is ") as refusal:
        kind(**{option: ["\ud83d"] if is_list else "\ud83d"})
    str(refusal.value).encode()


def test_options_that_a_user_gives_are_checked_and_those_of_another_rule_take_its_defaults() -> None:
    own = StepOptions(lr=0.1, segment=7)
    changed = own.with_options({"rule": "adam"})
    assert (changed.rule, vars(changed)["lr"], changed.segment, vars(changed)["decay"]) == ("adam", 0.1, 7, 0)
    assert own.with_options({"lr": None}).lr is None
    for options, said in (
        ({"rul": "rms"}, r"memory has no option 'rul' \(did you mean rule\?\); choose among .*, lr, .*, zeal"),
        ({"lr": "fast"}, r"memory\.lr is 'fast'"),
        ({"segment": 0}, r"memory\.segment is 0"),
    ):
        with pytest.raises(UserError, match=said):
            own.with_options(options, ["zeal"])


def test_sizes_are_bounded_before_anything_is_allocated() -> None:
    for section, option in (("pretrain", "lanes"), ("memory", "segment"), ("model", "hidden"), ("metatrain", "window")):
        with pytest.raises(UserError, match=rf"{section}\.{option} is 1000000"):
            section_of(get_type_hints(Config)[section], {option: 1_000_000})


COUNT = 40
RANGES = st.tuples(st.integers(1, COUNT), st.integers(1, COUNT)).map(sorted)


@given(st.lists(RANGES, min_size=1, max_size=6))
def test_articles_are_those_of_every_range_once_and_in_order(ranges: list[list[int]]) -> None:
    text = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
    wanted = sorted({index for low, high in ranges for index in range(low - 1, high)})
    assert article_range(text, COUNT) == wanted


@pytest.mark.parametrize(
    "text, wanted",
    [("38-", [37, 38, 39]), ("-3", [0, 1, 2]), ("1,3-5", [0, 2, 3, 4]), ("007", [6]), (None, list(range(COUNT)))],
)
def test_open_ends_and_lists_of_articles(text: str | None, wanted: list[int]) -> None:
    assert article_range(text, COUNT) == wanted


@pytest.mark.parametrize(
    "text, said",
    [
        ("5-3", "ends before it begins"),
        ("0", "there are 40 articles"),
        ("0-3", "there are 40 articles"),
        ("41", "there are 40 articles"),
        ("41-", "there are 40 articles"),
        ("9" * 5000, "there are 40 articles"),
        ("1,,2", "write FIRST-LAST"),
        ("-", "write FIRST-LAST"),
        ("", "write FIRST-LAST"),
        ("one", "write FIRST-LAST"),
        ("\u0663", "write FIRST-LAST"),
    ],
)
def test_what_names_no_articles_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refusal:
        article_range(text, COUNT, "tune.articles")
    assert str(refusal.value).startswith("tune.articles is ") and len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "words",
    [
        ["--split", "test", "runs/demo"],
        ["--split=test", "runs/demo"],
        ["--json", "runs/demo"],
        ["--memory.rule", "none", "--json", "runs/demo", "more"],
        ["--", "runs/demo"],
    ],
)
def test_the_runs_folder_is_found_behind_options(words: list[str]) -> None:
    assert _first_positional(_own_parser("score", COMMANDS["score"]), words) == "runs/demo"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["pretrian"], "did you mean pretrain?"),
        (["pretrain", "--pretrain.epoch", "3"], "did you mean --pretrain.epochs?"),
        (["compare"], "required: FILE"),
        (["pretrain", "--pretrain.epochs", ".inf"], "pretrain.epochs is inf"),
        (["pretrain", "--memory.lr", ".nan"], "memory.lr is nan"),
        (["pretrain", "--tune.tokens", "9" * 5000], "tune.tokens"),
        (["pretrain", "--run.name", "caf\udce9"], "run.name is"),
        (["verify", "none", "--tokens", "9" * 5000], "tokens"),
        (["verify", "none", "--tolerance", ".nan"], "--tolerance is nan"),
        (["compare", "none", "--resamples", "10000000"], "--resamples is 10000000"),
        (["compare", "none", "--seed", "-1"], "--seed is -1"),
        (["heatmap", "none", "--length", "-5"], "--length is -5"),
        (["heatmap", "none", "--start", "-5"], "--start is -5"),
        (["plot", "none", "--window", "0"], "--window is 0"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_words_are_refused_before_anything_is_loaded(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and len(error) < 1000, error


@pytest.mark.parametrize("content", ["memory: other.yaml\n", "memory: [other.yaml]\n", "memory: 3\n"])
def test_a_config_named_by_a_section_is_not_opened(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text("rule: none\n")
    Path("config.yaml").write_text(content)
    Path("above.yaml").write_text("base: config.yaml\n")
    assert main(["corpus", "--config", "config.yaml"]) == 2
    assert "config.yaml: memory is " in capsys.readouterr().err
    assert main(["study", "--config", "above.yaml"]) == 2
    assert "config.yaml: memory is " in capsys.readouterr().err
    assert main(["corpus", "--memory", "other.yaml"]) == 2
    assert "--memory is not used by this command" in capsys.readouterr().err
    assert main(["pretrain", "--memory", "other.yaml"]) == 2
    assert "unrecognized arguments: --memory other.yaml" in capsys.readouterr().err


def test_an_unknown_split_is_told_all_that_there_are() -> None:
    with pytest.raises(UserError, match="choose among train, meta, valid, test"):
        next(iter_articles(CorpusOptions(), "tests"))


def of_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    around = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "dynlm", *arguments]
    return subprocess.run(command, env=around | environment, cwd=ROOT, capture_output=True, check=False)


@pytest.mark.parametrize("variable, value", [("LOCAL_RANK", "0"), ("RANK", "1"), ("WORLD_SIZE", "2")])
def test_a_launchers_variables_in_part_are_refused(variable: str, value: str) -> None:
    done = of_process("corpus", **{variable: value})
    assert done.returncode == 2 and done.stdout == b""
    assert f"the environment has {variable}, but not ".encode() in done.stderr and done.stderr.count(b"\n") == 1


def test_errors_reach_a_latin_1_terminal() -> None:
    done = of_process("sing\u2192\u001b[31m", PYTHONIOENCODING="latin-1")
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert b"\\u2192" in done.stderr and b"\x1b" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["--version"]])
def test_a_full_disk_behind_standard_output_is_said(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "dynlm", *arguments]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"dynlm: error: cannot write: ") and done.stderr.count(b"\n") == 1


def test_without_a_home_folder_the_cache_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynlm.runtime.files import cache_folder

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("DYNLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(UserError, match="set DYNLM_CACHE"):
        cache_folder()
