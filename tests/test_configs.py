"""Every shipped configuration is read as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dynlm.cli.config_files import load_options
from dynlm.fewshot.options import FewShotOptions
from dynlm.run.run import Run
from dynlm.study.options import StudyOptions
from dynlm.study.prepare import check_slots
from dynlm.study.steps import steps_of
from dynlm.study.variants import readings_of, variants_of
from dynlm.train.config import Config

ROOT = Path(__file__).resolve().parents[1]
STUDY_CONFIGS = sorted((ROOT / "configs").glob("study-*.yaml"))
CONFIGS = sorted(set((ROOT / "configs").glob("*.yaml")) - set(STUDY_CONFIGS))
FEWSHOT_CONFIGS = sorted((ROOT / "configs" / "fewshot").glob("*.yaml"))


def assert_read_as_written(written: Any, read: Any, option: str) -> None:
    """Raise AssertionError unless every value of a YAML file arrives in the dataclass with its value and type."""
    if isinstance(written, dict):
        for name, value in written.items():
            own = read[name] if isinstance(read, dict) else getattr(read, name)
            assert_read_as_written(value, own, f"{option}.{name}")
    else:
        assert read == written, option
        # YAML 1.1 takes 3e-3 for a string; an integer is accepted for a float.
        assert isinstance(read, str) == isinstance(written, str), option


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_loads_as_written(path: Path) -> None:
    config, written = load_options(path, Config), yaml.safe_load(path.read_text(encoding="utf-8"))
    assert_read_as_written(written, config, path.name)
    assert config.run.name == (path.stem if "run" in written else Config().run.name)


@pytest.mark.parametrize("path", FEWSHOT_CONFIGS, ids=lambda path: path.stem)
def test_fewshot_config_loads_as_written(path: Path) -> None:
    config = load_options(path, FewShotOptions)
    assert_read_as_written(yaml.safe_load(path.read_text(encoding="utf-8")), config, path.name)
    assert config.run.name == path.stem


@pytest.mark.parametrize("path", STUDY_CONFIGS, ids=lambda path: path.stem)
def test_study_config_loads_as_written_on_its_base(path: Path, tmp_path: Path) -> None:
    written, options = yaml.safe_load(path.read_text(encoding="utf-8")), load_options(path, StudyOptions)
    # One without a base is for a run that is there.
    base = load_options(path.parent / written.pop("base"), Config) if "base" in written else Config()
    assert_read_as_written(written, options, path.name)
    for section in set(vars(base)) - set(written):
        assert getattr(options, section) == getattr(base, section)
    readings = [each for variant in variants_of(options) for each in readings_of(variant, options.study)]
    assert len(readings) > 1
    # Two variants that share a file of the run have to agree on its content; checked before anything is read.
    run = Run(tmp_path, {}).with_sections(*vars(options.run_options()).values())
    check_slots({each.label: steps_of(run, each.variant, each.memory.reset) for each in readings})


def test_documented_configs_exist() -> None:
    assert {"demo", "wikitext-2-small", "wikitext-2-awd", "wikitext-103"} <= {path.stem for path in CONFIGS}
    assert {"study-wikitext-2", "study-transformer"} <= {path.stem for path in STUDY_CONFIGS}
