"""Fixtures of the tests of the harness: a tiny pretrained transformer, and tasks of local files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

LINE = " the bafidela of the town was seen near a bafidela .\n"
DOCUMENTS = [LINE * 6, " the town was seen near a village .\n" * 3, "", LINE * 2]
QUESTIONS = [
    {"question": LINE * 5 + " the", "choices": ["bafidela of", "village of", "town"], "answer": 0},
    {"question": " it was seen near a ", "choices": ["village", "town ."], "answer": 1},
]
PROMPTS = [{"prompt": LINE * 5, "expected": "x"}, {"prompt": " the", "expected": "x"}]


@pytest.fixture(scope="session")
def pretrained(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama of 256 positions, trained briefly."""
    pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
    from tests.models.hf.pretrained import write_pretrained

    return write_pretrained(tmp_path_factory.mktemp("llama"), "llama", tiny_corpus, max_position_embeddings=256)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks: local_choice, local_rolling and local_generation."""
    folder = tmp_path_factory.mktemp("tasks")

    def write(name: str, rows: list[dict[str, Any]], **options: Any) -> None:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")}
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", **options}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))

    accuracy = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
    write(
        "local_choice",
        QUESTIONS,
        output_type="multiple_choice",
        doc_to_text="{{question}}",
        doc_to_choice="{{choices}}",
        doc_to_target="answer",
        metric_list=[accuracy],
    )
    write(
        "local_rolling",
        [{"page": text} for text in DOCUMENTS if text],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="page",
        metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    )
    write(
        "local_generation",
        PROMPTS,
        output_type="generate_until",
        doc_to_text="{{prompt}}",
        doc_to_target="expected",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0},
        metric_list=[{"metric": "bypass", "aggregation": "bypass", "higher_is_better": True}],
    )
    return folder
