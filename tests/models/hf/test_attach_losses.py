"""What an attached model returns: the losses of a text, as a table and as a picture, and text of its own."""

from __future__ import annotations

import copy
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
from dynlm.errors import UserError
from dynlm.runtime.tensors import params_fingerprint
from tests.models.hf.attached import ONE, SHORT, TEXT


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


@ONE
def test_a_prompt_without_tokens_is_as_none(given: tuple[Any, Any]) -> None:
    from tokenizers import normalizers

    tokenizer = copy.deepcopy(given[1])
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\a", "")
    reader = dynlm.attach(given[0], tokenizer, **SHORT)
    reader.read(TEXT)
    assert reader.generate("\a", tokens=5) == reader.generate("", tokens=5) != reader.generate("the", tokens=5)


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
    with pytest.raises(UserError, match=r"pip install 'dynlm\[pandas\]'"):
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
            for each in (tokens.nth(index).get_attribute("data-losses") for index in range(0, len(losses), 7))  # type: ignore[index]
        ]
        assert gains == pytest.approx(
            [float(low - high) for low, high in list(zip(losses.static, losses.nats, strict=True))[::7]], abs=1e-3
        )  # type: ignore[arg-type]
        assert opened.messages == [] and all(url.startswith(("file:", "about:")) for url in opened.requests)
        opened.close()
