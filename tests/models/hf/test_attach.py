"""``dynlm.attach``: a memory for a model of transformers that is in memory, which stays as it is."""

from __future__ import annotations

import copy
import dataclasses
import math
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
from tests.models.hf.test_commands import LORA, OPTIONS
from tests.models.hf.tiny import tiny

TEXT = "the bade of the kula was seen near a kula .\n" * 12
SHORT: dict[str, Any] = {"context": 48, "stride": 24, "segment": 16}
ROOT = Path(__file__).resolve().parents[3]
ONE = pytest.mark.parametrize("pretrained", ["llama"], indirect=True)
"""Tests of what is the same for every family."""


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Return the model in a folder and its tokenizer, as a user loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def given(pretrained: Path) -> tuple[Any, Any]:
    return loaded(pretrained)


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
    assert dataclasses.replace(own, last=by_command.last) == by_command
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
def test_an_article_in_pieces_has_the_losses_of_the_whole(given: tuple[Any, Any]) -> None:
    whole = dynlm.attach(*given, lr=0.01, **SHORT).read(TEXT)
    reader = dynlm.attach(*given, lr=0.01, **SHORT)
    parts = [reader.read(TEXT[:100], unfinished=True), reader.read(TEXT[100:300], unfinished=True)]
    parts.append(reader.read(TEXT[300:]))
    for column in ("nats", "static"):
        assert np.array_equal(np.concatenate([getattr(part, column) for part in parts]), getattr(whole, column))


@ONE
def test_generation_uses_the_memory_and_leaves_it(given: tuple[Any, Any]) -> None:
    reader = dynlm.attach(*given, lr=0.05, **SHORT)
    naive = reader.generate("the bade", tokens=8, temperature=0)
    reader.read(TEXT * 3)
    before = params_fingerprint(reader._session.saved.memory.params)
    told = reader.generate("the bade", tokens=8, temperature=0)
    assert told == reader.generate("the bade", tokens=8, temperature=0) != naive
    assert params_fingerprint(reader._session.saved.memory.params) == before


def test_greedy_generation_is_that_of_the_model(given: tuple[Any, Any]) -> None:
    """With a rule that learns nothing; the start token comes before the text."""
    model, tokenizer = copy.deepcopy(given[0]).eval(), given[1]
    ids = [tokenizer.bos_token_id, *tokenizer("the bade").input_ids]
    length = len(ids)
    with torch.no_grad():
        for _ in range(8):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    reader = dynlm.attach(model, tokenizer, rule="none", **SHORT)
    assert reader.generate("the bade", tokens=8, temperature=0) == tokenizer.decode(ids[length:])


@ONE
def test_losses_are_a_table(given: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    losses = dynlm.attach(*given, **SHORT).read("der Hase läuft .\n" * 4)
    table = losses.to_pandas()
    assert list(table) == ["token", "surface", "bytes", "words", "nats", "static"]
    assert table["bytes"].sum() == len(("der Hase läuft .\n" * 4).encode())
    assert np.array_equal(table["nats"], losses.nats) and np.array_equal(table["static"], losses.static)
    assert losses.bits_per_byte == pytest.approx(losses.total / math.log(2) / table["bytes"].sum())
    assert losses.nats_per_token == pytest.approx(table["nats"].mean())
    assert losses.static_nats_per_token == pytest.approx(table["static"].mean())
    assert re.fullmatch(r"Losses\(\d+ tokens; [\d.]+ nats/token, [\d.]+ bits/byte; static model .*\)", repr(losses))
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        losses.to_pandas()


@ONE
def test_losses_without_the_static_model(given: tuple[Any, Any]) -> None:
    with_it, without = (dynlm.attach(*given, **SHORT).read(TEXT, static=static) for static in (True, False))
    assert with_it.nats.tobytes() == without.nats.tobytes()
    assert without.static is None and without.static_nats_per_token is None
    assert list(without.to_pandas()) == ["token", "surface", "bytes", "words", "nats"]
    assert without._repr_html_() is None
    with pytest.raises(UserError, match="static=True"):
        without.heat_map()


@ONE
def test_losses_are_drawn(given: tuple[Any, Any], tmp_path: Path) -> None:
    from tests.browser import Opened, started

    hostile = "<script>alert(1)</script>\n"
    losses = dynlm.attach(*given, lr=0.05, **SHORT).read(TEXT + hostile)
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{losses._repr_html_()}</body>", encoding="utf-8")
    assert "<script" not in page.read_text(encoding="utf-8")
    with started() as browser:
        opened = Opened(browser, page, ready=None)
        frame = opened.page.frame_locator("iframe")
        tokens = frame.locator("p.text span")
        assert tokens.count() == len(losses)
        shown = "".join(tokens.all_inner_texts())
        assert shown.endswith("<script>alert(1)</script>↵") and shown.startswith("thebadeofthekula")
        assert "adam predicts better than static" in frame.locator("h1").inner_text()
        # Later lines were learned: the model with a memory loses less.
        gains = [
            float(re.search(r"difference ([+-][\d.]+)", each)[1])
            for each in (tokens.nth(index).get_attribute("title") for index in range(0, len(losses), 7))  # type: ignore[index]
        ]
        assert gains == pytest.approx(
            [float(low - high) for low, high in list(zip(losses.static, losses.nats, strict=True))[::7]], abs=1e-3
        )  # type: ignore[arg-type]
        assert opened.messages == [] and all(url.startswith(("file:", "about:")) for url in opened.requests)
        opened.close()


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


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rule": "rms"}, "rms' needs statistics of gradients; give statistics=TEXTS"),
    ({"rule": "rms", "statistics": ["a"]}, "rms' has no lr and no decay and no epsilon; give lr=, decay=, epsilon="),
    ({"rule": "rms", "statistics": []}, "statistics are computed on texts"),
    ({"rule": "rms", "statistics": "nowhere/statistics.safetensors"}, "no such file"),
    ({"rule": "sgd"}, "sgd' has no lr"),
    ({"rule": "meta"}, "meta' needs parameters that were learned; give the path"),
    ({"rule": "adamant"}, "memory.rule is 'adamant'"),
    ({"rule": "nowhere/meta-stream.safetensors"}, "no such file"),
    ({"lrate": 0.1}, "no option 'lrate'; choose among .*context.*lora_alpha.*seed"),
    ({"lora_rank": 4}, "no option 'lora_rank'; give rank"),
    ({"lr": "fast"}, "memory.lr is 'fast'"),
    ({"rank": -1}, "memory.lora_rank is -1"),
    ({"targets": "mlp.sideways"}, "memory.targets has 'mlp.sideways', which fits no tensor"),
    ({"context": 65}, "context is 65, and the model has 64 positions"),
    ({"context": 32, "stride": 48}, "model.stride is 48"),
    ({"cache": "fixed"}, "cache 'fixed' has no cache_window and no cache_inverse_temperature and no cache_share"),
    ({"cache": "learned"}, "cache 'learned' needs a gate that was learned; choose cache='fixed'"),
    ({"lanes": 2, "reset": "article"}, "memory.lanes is 2"),
]


@ONE
@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:24] for _, message in REFUSED])
def test_unfitting_arguments_are_refused(given: tuple[Any, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        dynlm.attach(*given, **options)
    assert "\n" not in str(error.value)


@ONE
def test_unfitting_models_and_tokenizers_are_refused(given: tuple[Any, Any], pretrained: Path) -> None:
    from transformers import AutoModel

    model, tokenizer = given
    with pytest.raises(UserError, match="a Linear is no causal language model"):
        dynlm.attach(torch.nn.Linear(2, 2), tokenizer)
    with pytest.raises(UserError, match="is no causal language model"):
        dynlm.attach(AutoModel.from_pretrained(pretrained), tokenizer)
    with pytest.raises(UserError, match="its tokenizer has no fast form"):
        dynlm.attach(model, object())
    with pytest.raises(UserError, match=r"the tokenizer has \d+ tokens, the model 97"):
        dynlm.attach(tiny("llama"), tokenizer)
    with pytest.raises(UserError, match="its weights are on meta"):
        dynlm.attach(copy.deepcopy(model).to("meta"), tokenizer)
    broken = copy.deepcopy(model)
    next(broken.parameters()).data[0] = math.nan
    with pytest.raises(UserError, match="is not finite"):
        dynlm.attach(broken, tokenizer)


@ONE
def test_tokens_that_the_model_does_not_have_are_refused(given: tuple[Any, Any]) -> None:
    """Those of a text; special tokens are read as plain text."""
    tokenizer = copy.deepcopy(given[1])
    tokenizer.add_special_tokens({"pad_token": "<pad>", "bos_token": "<begin>"})
    losses = dynlm.attach(given[0], tokenizer, **SHORT).read(TEXT + "<pad>")
    assert losses.token.max() < 400 and b"".join(losses.surface).endswith(b"<pad>")
    tokenizer.add_tokens(["kula"])
    with pytest.raises(UserError, match="the tokenizer has 403 tokens, the model 400"):
        dynlm.attach(given[0], tokenizer)


@ONE
def test_it_learns_where_gradients_are_off(given: tuple[Any, Any]) -> None:
    expected = dynlm.attach(*given, lr=0.01, **SHORT).read(TEXT)
    with torch.no_grad():
        found = dynlm.attach(copy.deepcopy(given[0]).train(), given[1], lr=0.01, **SHORT).read(TEXT)
    assert found.nats.tobytes() == expected.nats.tobytes()


@ONE
def test_an_attached_model_is_not_shared_as_a_run(given: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run, which can be shared"):
        dynlm.attach(*given, **SHORT).save_pretrained(tmp_path / "shared")


@ONE
def test_a_memory_of_another_model_is_refused(given: tuple[Any, Any], tmp_path: Path) -> None:
    reader = dynlm.attach(*given, **SHORT)
    reader.read(TEXT)
    reader.save(tmp_path)
    other = copy.deepcopy(given[0])
    next(other.parameters()).data += 1e-3
    fresh = dynlm.attach(other, given[1], **SHORT)
    with pytest.raises(UserError, match="a memory of another model"):
        fresh.load_memory(tmp_path)
    assert fresh.tokens_read == 0


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
