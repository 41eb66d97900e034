"""The model in lm-evaluation-harness itself, on tasks of local files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="the extra dynlm[harness] is not installed")

import lm_eval
from lm_eval.api.instance import Instance

from dynlm.errors import UserError
from dynlm.harness.model import DynamicHarnessLM
from dynlm.run.folder import load_model
from dynlm.runtime.tensors import params_fingerprint
from tests.harness.conftest import DOCUMENTS, LINE, PROMPTS, QUESTIONS
from tests.tiny import Run

SGD = {"rule": "sgd", "lr": 0.3, "segment": 7}
ADAM = {"rule": "adam", "lr": 0.01, "segment": 7, "lora_rank": 4, "lora_alpha": 8, "context": 64, "stride": 32}


def evaluate(tasks: Path, *names: str, **options: Any) -> dict[str, Any]:
    """Return what the harness finds, with the samples."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="dynlm", tasks=[*names], task_manager=manager, bootstrap_iters=0, device="cpu", **options
    )
    json.dumps(found["config"])  # as the harness writes it
    return dict(found)


def model_of(**given: Any) -> DynamicHarnessLM:
    return DynamicHarnessLM(**{"device": "cpu", **given})


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def test_a_run_takes_part_in_every_kind_of_task(trained_run: Run, tasks: Path) -> None:
    words = ",".join(f"{name}={value}" for name, value in SGD.items())
    names = ["local_choice", "local_rolling", "local_generation"]
    found = evaluate(tasks, *names, model_args=f"run={trained_run.folder},{words}")
    model = model_of(run=str(trained_run.folder), **SGD)
    documents = [text for text in DOCUMENTS if text]
    sums = model.loglikelihood_rolling(requests("loglikelihood_rolling", *((text,) for text in documents)))
    samples = found["samples"]
    assert [each["resps"][0][0] for each in samples["local_rolling"]] == sums
    size = sum(len(text.encode()) for text in documents)
    bits = found["results"]["local_rolling"]["bits_per_byte,none"]
    assert bits == pytest.approx(-sum(sums) / size / torch.log(torch.tensor(2.0)).item(), rel=1e-4)
    choices = [[each[0] for each in sample["resps"]] for sample in samples["local_choice"]]
    assert [len(each) for each in choices] == [len(each["choices"]) for each in QUESTIONS]
    asked = requests("loglikelihood", (QUESTIONS[0]["question"], " bafidela of"))
    assert model.loglikelihood(asked) == choices[0][:1]
    static = model_of(run=str(trained_run.folder), rule="none").loglikelihood(asked)
    assert choices[0][0][0] > static[0][0] + 1, "the context taught the word"
    texts = [each["resps"][0][0] for each in samples["local_generation"]]
    assert len(texts) == len(PROMPTS) and not any("\n" in text for text in texts)
    about = found["config"]["dynlm"]
    assert about["static_model"]["fingerprint"] == load_model(trained_run.folder).fingerprint
    assert (about["memory"]["rule"], about["memory"]["options"]["lr"]) == ("sgd", 0.3)
    assert "starts from the static parameters" in about["protocol"]["reset"]
    assert about["memory"]["tokens_learned_from"] > 0 and about["memory"]["rejected_updates"] == 0
    assert params_fingerprint(model.trained.params) == model.trained.fingerprint


def test_static_transformers_cost_what_they_cost_the_harness(pretrained: Path, tasks: Path) -> None:
    """Its own model hf, on a document and a continuation that fit its window."""
    from lm_eval.models.huggingface import HFLM

    own = HFLM(pretrained=str(pretrained), device="cpu", max_length=64, batch_size=1)
    model = model_of(pretrained=str(pretrained), rule="none", context=64, stride=32)
    (expected,) = own.loglikelihood_rolling(requests("loglikelihood_rolling", (LINE,)), disable_tqdm=True)
    (found,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (LINE,)))
    assert found == pytest.approx(expected, abs=1e-3)
    pairs = [("", LINE), ("<|endoftext|>" + LINE, " the town was")]
    expected, others = own.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    # The harness begins a context with no token of its own; here the start token begins each article.
    found = model.loglikelihood(requests("loglikelihood", ("", LINE), (LINE, " the town was")))
    assert found[0] == (pytest.approx(expected[0], abs=1e-3), expected[1])
    assert found[1] == (pytest.approx(others[0], abs=1e-3), others[1])


def test_a_pretrained_model_learns_from_a_context(pretrained: Path, tasks: Path) -> None:
    arguments = {"pretrained": str(pretrained), **ADAM}
    found = evaluate(tasks, "local_choice", "local_rolling", model_args=arguments)
    static = evaluate(tasks, "local_choice", "local_rolling", model_args={**arguments, "rule": "none"})
    perplexities = [each["results"]["local_rolling"]["word_perplexity,none"] for each in (found, static)]
    assert perplexities[0] < perplexities[1]
    word = [each["samples"]["local_choice"][0]["resps"][0][0][0] for each in (found, static)]
    assert word[0] > word[1] + 1
    assert [each["config"]["dynlm"]["memory"]["variant"] for each in (found, static)] == ["adam", "level 1"]
    fingerprints = {each["config"]["dynlm"]["static_model"]["fingerprint"] for each in (found, static)}
    assert len(fingerprints) == 1


@pytest.mark.parametrize(("context", "continuation"), [(" the town ", "was"), (" the tow", "n was"), (" ", "the")])
def test_the_tokens_of_a_continuation_are_those_of_the_whole_text(
    context: str, continuation: str, trained_run: Run
) -> None:
    """Spaces move to the continuation; where a token crosses, the continuation is encoded by itself."""
    model = model_of(run=str(trained_run.folder), rule="none")
    (found,) = model.loglikelihood(requests("loglikelihood", (context, continuation)))
    stripped, moved = context.rstrip(), context[len(context.rstrip()) :] + continuation
    encode = model.trained.tokenizer.encode
    ids, own = [*encode(stripped).ids.tolist()], [*encode(moved).ids.tolist()]
    whole = [*encode(context + continuation).ids.tolist()]
    tokens = whole[len(ids) :] if whole[: len(ids)] == ids else own
    assert encode(stripped).lengths.sum() + len(moved.encode()) == len((context + continuation).encode())
    read = model.reader.read_context(stripped)
    assert found == model.reader.score(read, tokens)
    assert model.trained.tokenizer.decode([*ids, *tokens]) == context + continuation


def test_a_stream_learns_from_one_document_to_the_next(trained_run: Run) -> None:
    asked = requests("loglikelihood_rolling", (LINE,), (LINE,))
    first, again = model_of(run=str(trained_run.folder), **SGD).loglikelihood_rolling(asked)
    assert first == again
    model = model_of(run=str(trained_run.folder), reset="stream", **SGD)
    assert model.loglikelihood_rolling(asked) == [first, pytest.approx(first, rel=0.5)]
    assert model.loglikelihood_rolling(asked)[1] > first
    with pytest.raises(UserError, match="use_cache does not go with reset=stream"):
        model.set_cache_hook(type("Hook", (), {"dbdict": {}})())


def test_sampled_texts_differ_from_request_to_request_and_repeat_with_the_seed(trained_run: Run) -> None:
    options = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    asked = requests("generate_until", (LINE, options), (LINE, options))
    texts = model_of(run=str(trained_run.folder), seed=3, **SGD).generate_until(asked)
    assert texts[0] != texts[1]
    assert model_of(run=str(trained_run.folder), seed=3, **SGD).generate_until(asked) == texts


def test_what_a_pretrained_model_lacks_is_said_by_name(pretrained: Path, trained_run: Run, tmp_path: Path) -> None:
    folder = str(pretrained)
    for given, what in (
        ({"pretrained": folder}, "pretrained is given without rule"),
        ({"pretrained": folder, "rule": "adam"}, "rule 'adam' has no lr; give lr=VALUE"),
        ({"pretrained": folder, "rule": "rms", "lr": 1}, "rule 'rms' needs statistics of gradients; `dynlm adopt`"),
        ({"pretrained": folder, "rule": "meta"}, "rule 'meta' needs parameters that were learned"),
        ({"pretrained": folder, "rule": "none", "cache": "fixed"}, "cache 'fixed' has no cache_window"),
        ({"pretrained": folder, "rule": "none", "context": 4, "stride": 8}, r"model\.stride is 8"),
        ({"pretrained": folder, "rule": "none", "context": 512}, "context is 512, and the model has 256 positions"),
        ({"pretrained": folder, **ADAM, "targets": "foo"}, r"memory\.targets has 'foo'"),
        ({"pretrained": str(tmp_path / "none"), "rule": "none"}, r"pretrained=.*none: .*no such folder"),
        ({"run": str(tmp_path / "none")}, r"run=.*none: .*no such run"),
        ({"run": str(trained_run.folder), "rule": "rms"}, r"run=.*rms has no memory\.lr and was not tuned"),
        ({"run": str(trained_run.folder), "lr": 1, "foo": 2}, "model_args: memory has no option 'foo'"),
        ({"run": str(trained_run.folder), **SGD, "device": "gpu9"}, "device is 'gpu9'"),
    ):
        with pytest.raises(UserError, match=what) as refused:
            model_of(**given)
        assert "\n" not in str(refused.value)
    model = model_of(pretrained=folder, rule="none")
    window = vars(model.trained.model.options)
    assert (window["context"], window["stride"], model.memory_options.segment) == (256, 128, 128)
    window = vars(model_of(pretrained=folder, rule="none", context=64).trained.model.options)
    assert (window["context"], window["stride"]) == (64, 32)
    model = model_of(run=str(trained_run.folder), rule="none")
    with pytest.raises(UserError, match="apply_chat_template is not supported"):
        model.tokenizer_name  # noqa: B018


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python -m dynlm.harness`` without a network."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    words = ("-m", "dynlm.harness", *words)
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_the_harness_is_run_from_the_command_line(pretrained: Path, tasks: Path, tmp_path: Path) -> None:
    words = ["--model", "dynlm", "--tasks", "local_choice,local_rolling", "--include_path", str(tasks)]
    arguments = f"pretrained={pretrained},rule=adam,lora_rank=4,lora_alpha=8,lr=1e-2,segment=7,context=64,stride=32"
    out = tmp_path / "out"
    done = command(*words, "--model_args", arguments, "--output_path", str(out), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "word_perplexity" in done.stdout and "local_choice" in done.stdout
    (path,) = out.rglob("results_*.json")
    found = json.loads(path.read_text())
    options = found["config"]["dynlm"]["memory"]["options"]
    assert (options["lora_rank"], options["lr"], options["reset"]) == (4, 0.01, "article")
    assert found["results"]["local_rolling"]["word_perplexity,none"] > 1


def test_an_error_is_one_line(
    pretrained: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dynlm.harness.__main__ import main

    def cli_evaluate() -> None:
        evaluate(tasks, "local_choice", model_args=f"pretrained={pretrained},rule=adam")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", cli_evaluate)
    capsys.readouterr()
    assert main() == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("dynlm: error: model_args: rule 'adam' has no lr; give lr=VALUE, or") and said.count("\n") == 1
    )
