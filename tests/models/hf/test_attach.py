"""``dynlm.attach``: a memory for a model of transformers that is in memory, which stays as it is."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")

import dynlm
from dynlm.adapt.memory_file import load_about
from dynlm.api import DynamicLM
from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.runtime.tensors import params_fingerprint
from tests.models.hf.attached import ONE, SHORT, TEXT, loaded
from tests.models.hf.test_commands import LORA, OPTIONS
from tests.models.hf.tiny import tiny

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("pretrained", "rank"), [("llama", 4), ("gpt2", 0)], indirect=["pretrained"])
def test_it_reads_as_the_adopted_model(given: tuple[Any, Any], adopted: Path, rank: int, tmp_path: Path) -> None:
    """Bit for bit: the losses, the static model's losses, and the memory file."""
    options = {"lr": 0.01, "segment": 16}
    low_rank = {"lora_rank": rank, "lora_alpha": 2.0 * rank} if rank else {}
    run = dynlm.load(adopted, rule="adam", reset="stream", **options, **low_rank)
    reader = dynlm.attach(*given, rank=rank, **options, context=48, stride=24)
    assert type(reader) is type(run) is DynamicLM
    assert reader.fingerprint == run.fingerprint
    for one, other in zip(reader.read(TEXT), run.read(TEXT), strict=True):
        assert one == other
    again, by_run = reader.read(TEXT), run.read(TEXT)
    assert again.static is not None and by_run.static is not None
    assert again.nats.tobytes() == by_run.nats.tobytes() != again.static.tobytes() == by_run.static.tobytes()
    assert again.static.tobytes() == dynlm.load(adopted, rule="none", segment=16).read(TEXT).nats.tobytes()
    assert again.nats_per_token < again.static_nats_per_token - 0.1  # type: ignore[operator]
    text, memory = tmp_path / "text.txt", tmp_path / "by_command.safetensors"
    text.write_text(TEXT)
    words = ["--memory.rule", "adam", "--memory.lr", "0.01", "--memory.segment", "16", "--memory.reset", "stream"]
    words += ["--memory.no_regret", "false"]
    words += [word for name, value in low_rank.items() for word in (f"--memory.{name}", str(value))]
    for _ in range(2):
        assert main(["read", str(adopted), str(text), "--memory", str(memory), "--again", *words]) == 0
    reader.save(tmp_path / "me")
    own, by_command = load_about(tmp_path / "me" / "dynlm.safetensors")[0], load_about(memory)[0]
    assert by_command.record["texts"] == [str(text)] * 2
    record = {**own.record, "texts": by_command.record["texts"]}  # only the command knows the files' names
    assert dataclasses.replace(own, last=by_command.last, record=record) == by_command
    for each, path in ((reader, memory), (run, tmp_path / "me")):
        each.load_memory(path)
        assert (each.tokens_read, each.options.lora_rank) == (2 * len(again), rank)
    assert reader.read(TEXT).nats.tobytes() == run.read(TEXT).nats.tobytes()


@ONE
def test_what_is_saved_is_an_adapter_of_peft(given: tuple[Any, Any], tmp_path: Path) -> None:
    """Saved again in place; PEFT's model predicts as this one."""
    from peft import PeftModel

    reader = dynlm.attach(*given, lr=0.02, **SHORT)
    reader.save(tmp_path / "me")
    assert (tmp_path / "me" / "adapter_config.json").exists()
    reader.read(TEXT)
    reader.save(tmp_path / "me")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["me"]
    with_adapter = PeftModel.from_pretrained(copy.deepcopy(given[0]), tmp_path / "me").eval()
    session = reader._session
    params = {**session.dynamic_model.static, **{name: each[0] for name, each in session.saved.memory.params.items()}}
    ids = torch.tensor([given[1]("the bade of the kula was").input_ids])
    with torch.no_grad():
        state = session.trained.model.init_state(1, session.dynamic_model.like)
        expected = session.trained.model.forward(params, state, ids).logits_BTV
        assert (given[0].eval()(ids).logits - expected).abs().max() > 0.01
        torch.testing.assert_close(with_adapter(ids).logits, expected, rtol=1e-5, atol=1e-5)


@ONE
def test_a_folder_with_other_files_is_not_replaced(given: tuple[Any, Any], tmp_path: Path) -> None:
    reader = dynlm.attach(*given, rank=0, **SHORT)
    reader.read(TEXT)
    reader.save(tmp_path / "me")
    assert [path.name for path in (tmp_path / "me").iterdir()] == ["dynlm.safetensors"]
    (tmp_path / "me" / "thesis.tex").write_text("years of work")
    for folder, message in ((tmp_path / "me", "other files, such as 'thesis.tex'"), (Path(__file__), "something")):
        with pytest.raises(UserError, match=message):
            reader.save(folder)
    assert (tmp_path / "me" / "thesis.tex").read_text() == "years of work"
    other = dynlm.attach(*given, **SHORT)
    other.load_memory(tmp_path / "me")
    assert (other.options.lora_rank, other.tokens_read) == (0, reader.tokens_read)
    assert other.read(TEXT).nats.tobytes() == reader.read(TEXT).nats.tobytes()


def state_of(module: Any) -> tuple[Any, ...]:
    """Return everything of a module that reading could change."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    addresses = {name: (tensor.data_ptr(), tensor.requires_grad, tensor.grad) for name, tensor in tensors.items()}
    modes = [(name, each.training, type(each), len(each._forward_hooks)) for name, each in module.named_modules()]
    return params_fingerprint(tensors), addresses, modes, module.config.to_dict()


@pytest.mark.parametrize("rank", [4, 0])
def test_the_module_and_the_tokenizer_stay_as_they_are(given: tuple[Any, Any], rank: int) -> None:
    model, tokenizer = copy.deepcopy(given[0]).train(), copy.deepcopy(given[1])
    tokenizer.backend_tokenizer.enable_truncation(7)
    before, backend = state_of(model), tokenizer.backend_tokenizer.to_str()
    reader = dynlm.attach(model, tokenizer, rank=rank, **SHORT)
    reader.read(TEXT)
    reader.generate("the bade", tokens=3)
    assert reader.distance > 0
    assert state_of(model) == before
    assert tokenizer.backend_tokenizer.to_str() == backend
    assert not tokenizer.backend_tokenizer.encode_special_tokens


@ONE
def test_weights_are_shared_not_copied(given: tuple[Any, Any]) -> None:
    reader = dynlm.attach(*given, targets="mlp", rank=2, **SHORT)
    static, own = reader._session.dynamic_model.static, dict(given[0].named_parameters())
    assert all(static[name].data_ptr() == tensor.data_ptr() for name, tensor in own.items())
    assert not any(tensor.requires_grad for tensor in static.values())
    assert all(".mlp." in name and ".lora_B." in name for name in reader._session.saved.memory.params)


@pytest.mark.parametrize("pretrained", ["gpt2"], indirect=True)
def test_dropout_is_left_out(given: tuple[Any, Any]) -> None:
    model = copy.deepcopy(given[0])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    found = [dynlm.attach(model.train(mode), given[1], **SHORT).read(TEXT).nats.tobytes() for mode in (True, False)]
    assert found[0] == found[1]


@ONE
@pytest.mark.parametrize(("dtype", "rank"), [(torch.bfloat16, 4), (torch.bfloat16, 0), (torch.float16, 4)])
def test_half_precision_has_a_float32_memory(pretrained: Path, dtype: torch.dtype, rank: int) -> None:
    model, tokenizer = loaded(pretrained, dtype)
    before = params_fingerprint(dict(model.named_parameters()))
    reader = dynlm.attach(model, tokenizer, rank=rank, lr=0.01, **SHORT)
    losses = reader.read(TEXT)
    assert all(tensor.dtype == torch.float32 for tensor in reader._session.saved.memory.params.values())
    assert np.isfinite(losses.nats).all() and losses.total < losses.static.sum() - 1  # type: ignore[union-attr]
    assert params_fingerprint(dict(model.named_parameters())) == before
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@ONE
def test_reset_forgets(given: tuple[Any, Any]) -> None:
    reader = dynlm.attach(*given, lr=0.01, **SHORT)
    first = reader.read(TEXT)
    assert reader.read(TEXT).total < first.total
    for forget in (reader.reset, reader.forget):
        forget()
        assert (reader.tokens_read, reader.distance) == (0, 0.0)
        assert reader.read(TEXT).nats.tobytes() == first.nats.tobytes()


@ONE
def test_it_says_what_it_is(given: tuple[Any, Any], pretrained: Path) -> None:
    reader = dynlm.attach(*given, targets="mlp")
    assert repr(reader) == f"DynamicLM({pretrained}; rule adam moves mlp (LoRA, rank 8); 0 tokens read, distance 0)"
    reader.read(TEXT)
    assert re.search(rf"{reader.tokens_read:,} tokens read, distance 0\.\d+\)", repr(reader))
    assert "rule none; 0 tokens" in repr(dynlm.attach(*given, rule="none", **SHORT))


@ONE
def test_the_defaults(given: tuple[Any, Any]) -> None:
    reader = dynlm.attach(*given)
    options, window = reader.options, reader._session.trained.model.options
    assert (options.rule, options.lr, options.lora_rank, options.lora_alpha) == ("adam", 1e-3, 8, 16.0)  # type: ignore[attr-defined]
    # The model has 64 positions.
    assert (window.context, window.stride, options.segment) == (64, 32, 32)  # type: ignore[attr-defined]
    assert dynlm.attach(*given, rank=0).options.lr == 1e-4  # type: ignore[attr-defined]
    disjoint = dynlm.attach(*given, context=20, stride=0)
    window = disjoint._session.trained.model.options
    assert (window.context, window.stride, disjoint.options.segment) == (20, 20, 20)  # type: ignore[attr-defined]


@ONE
def test_rms_with_statistics_of_texts(given: tuple[Any, Any]) -> None:
    """R is the root mean square of the segments' gradients at the static weights; here each text is one segment."""
    constants = {"lr": 1e-3, "decay": 0.0, "epsilon": 1e-3}
    texts = ["the bade of the kula", "was seen near a kula ."]
    reader = dynlm.attach(*given, rule="rms", rank=0, statistics=iter(texts), **constants, **SHORT)
    model, squares = copy.deepcopy(given[0]).eval(), 0.0
    name, weight = list(model.named_parameters())[-3]
    for text in texts:
        ids = torch.tensor([given[1].bos_token_id, *given[1](text).input_ids])
        loss = torch.nn.functional.cross_entropy(model(ids[None, :-1]).logits[0], ids[1:])
        squares = squares + torch.autograd.grad(loss, weight)[0].square()
    scale = reader._session.dynamic_model.rule.precondition[name]  # type: ignore[attr-defined]
    torch.testing.assert_close(scale, 1 / ((squares / 2) ** 0.5 + 1e-3), rtol=1e-3, atol=1e-3)
    first, again = reader.read(TEXT), reader.read(TEXT)
    assert again.total < first.total - 1


@ONE
def test_rms_with_statistics_of_batches_of_texts(given: tuple[Any, Any]) -> None:
    """R is the root mean square of the gradients of batches' mean losses: here of one batch of two sequences."""
    constants = {"lr": 1e-4, "decay": 0.0, "epsilon": 1e-3, "statistics_lanes": 2, "segment": 6}
    text = "the bade of the kula was seen near a kula . the bade was seen"
    ids = given[1](text, return_tensors="pt").input_ids[0]
    size = len(ids) // 2
    assert 6 <= size < 12
    reader = dynlm.attach(*given, rule="rms-batch", rank=0, statistics=[text], **constants)
    model = copy.deepcopy(given[0]).eval()
    name, weight = list(model.named_parameters())[-3]
    targets_BT = torch.stack([ids[:6], ids[size : size + 6]])
    start_B1 = torch.full((2, 1), given[1].bos_token_id)
    logits_BTV = model(torch.cat([start_B1, targets_BT[:, :-1]], 1)).logits
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
    scale = reader._session.dynamic_model.rule.precondition[name]  # type: ignore[attr-defined]
    expected = 1 / (torch.autograd.grad(loss, weight)[0].abs() + 1e-3)
    torch.testing.assert_close(scale, expected, rtol=1e-3, atol=1e-3)


@ONE
@pytest.mark.slow
@pytest.mark.parametrize("factors", [[], LORA], ids=["all weights", "LoRA"])
def test_a_learned_rule_of_a_run(given: tuple[Any, Any], adopted: Path, factors: list[str]) -> None:
    """With the run's options, statistics and constants: what the run itself reads with."""
    words = ["--metatrain.tokens", "100", "--metatrain.window", "3", "--metatrain.pick_tokens", "60"]
    words += ["--tune.rounds", "0", "--tune.tokens", "100", "--tune.statistics_tokens", "300"]
    assert main(["metatrain", str(adopted), "--memory.g", "mine", *factors, *OPTIONS, *words]) == 0
    low_rank: dict[str, Any] = {"lora_rank": 4, "lora_alpha": 8} if factors else {}
    folder = adopted / "memory" / dynlm.load(adopted, rule="none", **low_rank)._session.trained.model.label
    more = {"lora_alpha": 8} if factors else {}
    expected = dynlm.load(adopted, rule="meta", g="mine", segment=16, **low_rank).read(TEXT)
    reader = dynlm.attach(*given, rule=folder / "mine-article.safetensors", **more)
    assert reader.read(TEXT).nats.tobytes() == expected.nats.tobytes()
    assert (reader.options.segment, reader.options.reset) == (16, "article")
    by_statistics = dynlm.attach(*given, rule="rms", statistics=folder / "statistics.safetensors", segment=16, **more)
    expected = dynlm.load(adopted, rule="rms", segment=16, **low_rank).read(TEXT)
    assert by_statistics.read(TEXT).nats.tobytes() == expected.nats.tobytes()
    with pytest.raises(UserError, match="other targets move in this model"):
        dynlm.attach(*given, rule=folder / "mine-article.safetensors", rank=3)
    with pytest.raises(UserError, match="does not go with memory.rule meta"):
        dynlm.attach(*given, rule=folder / "mine-article.safetensors", lr=0.1, **more)
    with pytest.raises(UserError, match="not the file of a learned rule"):
        dynlm.attach(*given, rule=folder / "statistics.safetensors")
    other = tiny("llama")
    with pytest.raises(UserError, match="not the file of|belongs to another|tokenizer has"):
        dynlm.attach(other, given[1], rule=folder / "mine-article.safetensors", **more)


@ONE
def test_it_learns_where_gradients_are_off(given: tuple[Any, Any]) -> None:
    expected = dynlm.attach(*given, lr=0.01, **SHORT).read(TEXT)
    model = copy.deepcopy(given[0]).train()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            reader = dynlm.attach(model, given[1], lr=0.01, **SHORT)
            assert reader.read(TEXT).nats.tobytes() == expected.nats.tobytes()
        reader.forget()
        with mode():
            assert reader.read(TEXT).nats.tobytes() == expected.nats.tobytes()


@ONE
def test_the_quick_start_runs(
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert "dynlm.attach(" in example and "HuggingFaceTB/SmolLM2-135M" in example
    (tmp_path / "guide.md").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace("HuggingFaceTB/SmolLM2-135M", str(pretrained)), "the example", "exec"), {})
    printed = capsys.readouterr().out
    assert "nats/token" in printed and "static" in printed
    assert (tmp_path / "me" / "adapter_model.safetensors").exists()
