"""The notebooks in docs/: each runs from top to bottom and displays what it says it does."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from dynlm.evaluation.export import to_csv
from dynlm.run.locate import packed_models
from dynlm.study.results import results_of
from dynlm.study.tables import figures
from tests.study.test_results import BELOW, done, options
from tests.tiny import Run

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
SHIPPED = "wikitext-2-small"


def load(path: Path) -> Any:
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(path, as_version=4)


def ran(notebook: Any, folder: Path, **parameters: Any) -> dict[str, Any]:
    """Run all cells in ``folder`` with other parameters, and return the outputs of each code cell by its id."""
    nbclient = pytest.importorskip("nbclient")
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    names = set(re.findall(r"^(\w+) = ", cell.source, re.MULTILINE))
    assert names >= parameters.keys()
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def texts(outputs: list[Any], kind: str = "text/plain") -> str:
    """Return what a cell printed, and what it displayed as ``kind``."""
    shown = (each for each in outputs if each.get("name") != "stderr")
    return "".join(each.get("text", "") or each.get("data", {}).get(kind, "") for each in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    notebook = load(path)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, cell.id
        for link in re.findall(r"\]\(([^)#:]+)\)", cell.source) if cell.cell_type == "markdown" else ():
            assert (path.parent / link).is_file(), link
    assert "version" not in notebook.metadata.get("language_info", {}), "it differs from one Python to the next"


def test_reading_runs_from_top_to_bottom(tuned_run: Run, tmp_path: Path) -> None:
    """With the model that it names, where that is there, else with one of the tests'."""
    asked = options()
    made = results_of(done(asked, BELOW, tmp_path / "readings"), asked.study)
    (tmp_path / "run" / "study").mkdir(parents=True)
    (tmp_path / "run" / "study" / "table.csv").write_text(to_csv(figures(made)))
    model = {} if SHIPPED in packed_models() else {"MODEL": str(tuned_run.folder)}
    outputs = ran(load(ROOT / "docs" / "reading.ipynb"), tmp_path, STUDY=str(tmp_path / "run"), **model)

    warned = [each.text for cell in outputs.values() for each in cell if each.get("name") == "stderr"]
    # Without ipywidgets, tqdm advises to install them.
    assert not [text for text in warned if "IProgress not found" not in text]
    assert texts(outputs["load"]).startswith("DynamicLM(") and "0 tokens read" in texts(outputs["load"])
    assert "nats/token" in texts(outputs["read"]) and "static model" in texts(outputs["read"])
    for heat_map in ("heat-map", "comparison"):
        assert "<iframe" in texts(outputs[heat_map], "text/html")
    for curve in ("plot", "comparison-plot"):
        assert "data:image/svg+xml;base64," in texts(outputs[curve], "text/html")
    assert texts(outputs["frame"], "text/html").count("<tr") == 1 + 5
    assert texts(outputs["means"], "text/html").count("<tr") > 1 + 5
    gain = re.search(r"gain ([+-][\d.]+), 95 % \[([+-][\d.]+), ([+-][\d.]+)\] over \d+ blocks", texts(outputs["again"]))
    assert gain is not None and float(gain[2]) > 0, "the second reading is better"
    assert "twice.safetensors expects more" in texts(outputs["diff"])
    forgotten, loaded = texts(outputs["forget"]).splitlines()
    assert " 0 tokens read" in forgotten and " 0 tokens read" not in loaded
    with_memory, without = texts(outputs["generate"]).split("without:", 1)
    assert with_memory.removeprefix("with the memory:").strip() != without.strip()
    study = texts(outputs["study"], "text/html")
    assert study.count("<tr") == 1 + len(BELOW) and "gain_over_rms_low" in study
