"""The table of README.md is what scripts/readme_results.py makes of the study's files under docs/."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "readme_results.py"


@pytest.fixture
def script(tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_results", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "docs").mkdir()
    module.ROOT, module.README = tmp_path, tmp_path / "README.md"
    module.TABLE, module.SEEDS = tmp_path / "docs" / "table.csv", tmp_path / "docs" / "seeds.csv"
    module.README.write_text(f"before\n{module.BEGIN}\nold\n{module.END}\nafter\n", encoding="utf-8")
    return module


def write_csv(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def record(variant: str, reset: str, order: str, nats: float) -> dict[str, object]:
    figures = {"nats_per_token": nats, "perplexity_per_word": 100 * nats, "bits_per_byte": nats / 4}
    gains: dict[str, object] = {}
    for key in ("gain_over_level_1", "gain_over_rms"):
        gains |= {key: 3.5 - nats or "", f"{key}_low": 3.4 - nats, f"{key}_high": 3.6 - nats}
    text = {"tokens": 1234567, "words": 89000}
    return {"variant": variant, "reset": reset, "order": order, **text, **figures, **gains}


def test_readme_is_what_the_files_make() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_study_becomes_a_table_with_gains_and_seeds(script: ModuleType, tmp_path: Path) -> None:
    study = tmp_path / "study"
    rows = [record("level 1", "", "", 3.5), record("rms", "stream", "in order", 3.25)]
    write_csv(study / "table.csv", [*rows, record("rms", "stream", "shuffled", 9.0), record("other", "", "", 1.0)])
    of_seeds = {"nats_per_token_mean": 3.25, "nats_per_token_lowest": 3.2, "nats_per_token_highest": 3.3}
    seeds = {"variant": "rms", "reset": "stream", "order": "in order", "base_models": 2, "meta_seeds": 3} | of_seeds
    write_csv(study / "seeds.csv", [seeds])
    assert script.main([str(study)]) == 0
    text = script.README.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "1,234,567 tokens, 89,000 words" in text
    assert "| level 1 |  | 3.5000 | 350.0 | 0.8750 | - | - | - |" in text
    gain = "+0.2500 [+0.1500, +0.3500]"
    assert (
        f"| rms | stream | 3.2500 | 325.0 | 0.8125 | {gain} | {gain} | 3.2500 (3.2000 to 3.3000, 6 readings) |" in text
    )
    assert "9.0" not in text and "other" not in text
    assert script.main(["--check"]) == 0


def test_a_change_by_hand_and_a_missing_study_are_refused(script: ModuleType, tmp_path: Path, capsys) -> None:
    study = tmp_path / "study"
    write_csv(study / "table.csv", [record("level 1", "", "", 3.5)])
    script.main([str(study)])
    script.README.write_text(script.README.read_text(encoding="utf-8").replace("3.5000", "3.4000"), encoding="utf-8")
    assert script.main(["--check"]) == 2 and "run scripts/readme_results.py" in capsys.readouterr().err
    assert script.main([str(tmp_path / "none")]) == 2 and "no study" in capsys.readouterr().err
    assert script.main(["--help"]) == 2


def test_the_pictures_need_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("readme_pictures", SCRIPT.with_name("readme_pictures.py"))
    assert spec is not None and spec.loader is not None
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    assert pictures.main([str(tmp_path / "study")]) == 2
    assert "level-1.parquet" in capsys.readouterr().err
