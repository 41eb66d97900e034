"""Reading of YAML."""

from pathlib import Path

import pytest

from dynlm.runtime.parsing import read_yaml


@pytest.mark.parametrize(
    "text, value",
    [("1e-3", 1e-3), ("2E4", 2e4), ("-1.5e+2", -150.0), (".5e1", 5.0), ("1.e1", 10.0), ("7", 7), ("1.0e-3", 1e-3)],
)
def test_numbers_with_an_exponent_are_floats(text: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(f"lr: {text}\n")
    (found,) = read_yaml(path).values()
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["'1e-3'", "e3", "1e", "1e-3x", "1e3.5"])
def test_other_words_stay_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(f"name: {text}\n")
    assert read_yaml(path) == {"name": text.strip("'")}
