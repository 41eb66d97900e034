"""Options from YAML files, from a run's own config and from the command line may hold anything."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from dynlm.cli.config_files import load_options
from dynlm.cli.main import COMMANDS
from dynlm.cli.parser import parse
from dynlm.train.config import Config
from dynlm.train.config import load_config as load_run_config
from tests.fuzz.cases import altered, damaged, fuzz, tried, values

DEFAULTS: dict[str, Any] = dataclasses.asdict(Config())
SECTIONS = sorted(DEFAULTS)
WHOLE = yaml.safe_dump(DEFAULTS, sort_keys=False).encode()
TRAPS = [
    b"&a [*a]\n",
    b"run: &a {name: *a}\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nmemory: {dynamic: [*b, *b]}\n",
    b"[" * 3000 + b"\n",
    "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghijklmnopqrstu")).encode(),
    b"run: {seed: .nan}\n",
    b"run: {seed: 1e400}\n",
    b"model: {layers: 1000000000000}\n",
    b"memory: {lr: .inf}\nmemory: {rate: 1}\n",
    b"run: !!python/object/apply:os.system ['true']\n",
    b"run: !!set {a, b}\nmemory: !!binary aGk=\n",
    b"<<: {run: {name: x}}\n",
    b"run: {name: 2001-01-01, folder: 0o7}\n",
    b"\xef\xbb\xbfrun: {}\n---\nrun: {}\n",
    b"run:\n\tname: x\n",
    b"? [a, b]\n: c\n",
    b"1: {a: b}\nnull: {}\n",
]


def option_of(section: str) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(DEFAULTS[section]))


@st.composite
def sections(draw: st.DrawFn) -> dict[Any, Any]:
    """A few options, known and unknown, with values of any type."""
    made: dict[Any, Any] = {}
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(SECTIONS))
        made.setdefault(section, {})[draw(option_of(section))] = draw(values)
    if draw(st.integers(0, 9)) == 0:
        made[draw(st.text(max_size=5))] = draw(values)
    return made


def as_yaml(content: Any) -> bytes:
    return yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")


files = st.one_of(
    sections().map(as_yaml), damaged(WHOLE), damaged(WHOLE[:300]), st.sampled_from(TRAPS), st.binary(max_size=60)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


@fuzz("yaml configs", content=files)
def test_config_files(folder: Path, content: bytes) -> None:
    (folder / "options.yaml").write_bytes(content)
    config = tried(lambda: load_options(folder / "options.yaml", Config))
    assert config is None or yaml.safe_dump(dataclasses.asdict(config))


@fuzz("run configs", content=st.one_of(files.map(lambda part: part + b"\n"), altered(DEFAULTS).map(as_yaml)))
def test_configs_of_runs(folder: Path, content: bytes) -> None:
    (folder / "config.yaml").write_bytes(content)
    config = tried(lambda: load_run_config(folder))
    if config is not None:
        assert all(type(getattr(config, name)) is type(getattr(Config(), name)) for name in SECTIONS)


words = st.one_of(
    values.map(lambda value: yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()),
    st.text(max_size=12),
    st.sampled_from(
        ["", "nan", "-inf", "1e999", "-1", "1e-400", "true", "null", "[", "[1,", "{a: b}", "@x", "9" * 5000, "!!x"]
    ),
)


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    made = []
    for _ in range(draw(st.integers(1, 2))):
        section = draw(st.sampled_from(SECTIONS))
        name = f"--{section}.{draw(option_of(section))}"
        if draw(st.integers(0, 9)) == 0:
            name = draw(st.sampled_from(["--config", f"--{section}", "--no.such", "-x", name + "+"]))
        made += [f"{name}={draw(words)}"] if draw(st.booleans()) else [name, draw(words)]
    return made


@fuzz("dotted options", argv=arguments())
def test_options_of_the_command_line(argv: list[str]) -> None:
    found = tried(lambda: parse("pretrain", COMMANDS["pretrain"], argv))
    assert found is None or isinstance(found[1], Config)
