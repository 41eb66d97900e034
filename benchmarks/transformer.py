"""Speed of reading with a transformer, beside the bound of the machine and a plain loop.

    python -m benchmarks.transformer [--rounds 3]

The model has the shape of SmolLM2-135M and random weights; the text is random tokens, in articles as long as the
context and half of it again, so that the context is used up once in each. Each kind is timed in a process of its own,
in rounds by turns. The plain loop is what a user writes without dynlm: PEFT's model, its optimizer, a key-value cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.bound import Cost
from benchmarks.machine import measure_machine
from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import read_segment
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.rules.registry import RULES
from dynlm.data.stream import Segment
from dynlm.models.hf.model import HFModel
from dynlm.models.hf.options import HFOptions
from dynlm.models.options import Targets
from dynlm.models.registry import EngineSettings, engine_for
from dynlm.runtime.cost import peak_memory

CONTEXT, STRIDE, SEGMENT, RANK = 1024, 512, 128, 8
TOKENS = CONTEXT + STRIDE
KINDS = ("static", "LoRA", "LoRA, plain loop", "all weights")
SHAPE: dict[str, Any] = {
    **{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
    **{"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True, "pad_token_id": None},
}


def new_module() -> Any:
    """Return a causal language model of the shape, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


def cost_of_article(kind: str) -> Cost:
    """Return the least operations and bytes of an article.

    Operations: two for each weight of a product and token; forward; backward by the activations and, where they move,
    by the weights (of low-rank factors, B); both products of attention forward, and two of four backward over all keys,
    the other two over the segment's own; the context read again. Bytes: weights once for each pass; all weights:
    gradient, weights and two moments, read and written.
    """
    width, inner, layers = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["num_hidden_layers"]
    keys = width // SHAPE["num_attention_heads"] * SHAPE["num_key_value_heads"]
    matrices = layers * (2 * width * width + 2 * width * keys + 3 * width * inner)
    head, weights = width * SHAPE["vocab_size"], matrices + width * SHAPE["vocab_size"]
    learns, low_rank = kind != "static", kind.startswith("LoRA")
    outputs = layers * (3 * width + 2 * keys + 2 * inner) * RANK if low_rank else 0  # weights of the factors B
    factors = outputs + layers * (6 * width + inner) * RANK if low_rank else 0
    operations = moved = 0.0
    past = 0
    for _ in range(0, TOKENS, SEGMENT):
        if past + SEGMENT > CONTEXT:
            past = CONTEXT - STRIDE
            operations += 2 * past * matrices + 2 * past * past * width * layers  # causal: half of the products
            moved += 4 * weights
        seen = past + SEGMENT / 2
        products = 2 * SEGMENT * (matrices + head + factors)
        attention = 4 * SEGMENT * seen * width * layers
        operations += products + attention
        moved += 4 * weights
        if learns:
            operations += products + attention + 2 * SEGMENT * SEGMENT * width * layers
            operations += 2 * SEGMENT * outputs if low_rank else products
            moved += 4 * weights * (1 if low_rank else 9)
        past += SEGMENT
    return Cost(operations, moved)


def reader_of(kind: str) -> Callable[[np.ndarray], float]:
    """Return a function that reads an article of token ids and returns the sum of its nats."""
    module = new_module()
    if kind == "LoRA, plain loop":
        return plain_loop(module)
    model, params = (
        HFModel.of(module, HFOptions(kind="hf", context=CONTEXT, stride=STRIDE)),
        dict(module.named_parameters()),
    )
    params = {name: tensor.detach() for name, tensor in params.items()}
    if kind == "LoRA":
        model, params = model.with_targets(params, Targets(("*",), RANK, 2.0 * RANK))
    names = model.dynamic_tensors(["*"]) if kind != "static" else ()
    constants = {"lr": 1e-3 if kind == "LoRA" else 1e-5, "decay": 0.0, "beta1": 0.9, "beta2": 0.99}
    build = RULES["adam"].build
    assert build is not None
    rule = build(names, constants, None) if names else LEVEL_1
    dynamic_model = DynamicModel(engine_for(model, EngineSettings()), params, rule, names, "article")

    memory = dynamic_model.fresh_memory()

    def read(ids_T: np.ndarray) -> float:
        nonlocal memory
        total, no_B = 0.0, np.zeros(1, dtype=bool)
        for begin in range(0, TOKENS, SEGMENT):
            inputs_BT, targets_BT = ids_T[None, begin : begin + SEGMENT], ids_T[None, begin + 1 : begin + SEGMENT + 1]
            starts_B, position_B2 = np.array([begin == 0]), np.array([[0, begin]])
            mask_BT = np.ones_like(inputs_BT, dtype=bool)
            segment = Segment(inputs_BT, targets_BT, mask_BT, starts_B, no_B, position_B2)
            nats_BT, memory = read_segment(dynamic_model, memory, segment)
            total += float(nats_BT.sum())
        return total

    return read


def plain_loop(module: Any) -> Callable[[np.ndarray], float]:
    """Return a function that reads an article with PEFT's model, torch's Adam and the cache of ``transformers``."""
    from peft import LoraConfig, get_peft_model
    from transformers import DynamicCache

    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(module, config).eval()
    moving = [tensor for name, tensor in model.named_parameters() if "lora_B" in name]
    for name, tensor in model.named_parameters():
        tensor.requires_grad_("lora_B" in name)

    def read(ids_T: np.ndarray) -> float:
        ids_1T, total, cache, start = torch.from_numpy(ids_T)[None], 0.0, DynamicCache(), 0
        with torch.no_grad():
            for tensor in moving:
                tensor.zero_()
        optimizer = torch.optim.Adam(moving, 1e-3, (0.9, 0.99))
        for begin in range(0, TOKENS, SEGMENT):
            if begin + SEGMENT - start > CONTEXT:
                start, cache = begin - (CONTEXT - STRIDE), DynamicCache()
                with torch.no_grad():
                    model(ids_1T[:, start:begin], cache=cache, use_cache=True, logits_to_keep=1)
            inputs_1T, targets_T = ids_1T[:, begin : begin + SEGMENT], ids_1T[0, begin + 1 : begin + SEGMENT + 1]
            nats_T = torch.nn.functional.cross_entropy(
                model(inputs_1T, cache=cache, use_cache=True).logits[0], targets_T, reduction="none"
            )
            optimizer.zero_grad()
            nats_T.mean().backward()
            optimizer.step()
            for layer in cache.layers:
                detached: Any = layer
                detached.keys, detached.values = detached.keys.detach(), detached.values.detach()
            total += float(nats_T.sum())
        return total

    return read


def time_of(kind: str, articles: int) -> dict[str, float]:
    """Return the tokens a second of the fastest of some articles, and the process's peak memory in bytes."""
    read, generator = reader_of(kind), np.random.default_rng(0)
    texts = [generator.integers(SHAPE["vocab_size"], size=TOKENS + 1) for _ in range(articles + 1)]
    read(texts[0])
    times = []
    for text in texts[1:]:
        begin = time.perf_counter()
        read(text)
        times.append(time.perf_counter() - begin)
    return {"tokens": TOKENS / min(times), "peak": float(peak_memory(torch.device("cpu")) or 0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, help="time one kind in this process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--articles", type=int, default=1, help="timed in each process, after one to warm up")
    options = parser.parse_args()
    if options.kind:
        print(json.dumps(time_of(options.kind, options.articles)))
        return
    machine, found = measure_machine(), dict[str, list[dict[str, float]]]()
    for _ in range(options.rounds):
        for kind in KINDS:
            command = [
                sys.executable,
                "-m",
                "benchmarks.transformer",
                "--kind",
                kind,
                "--articles",
                str(options.articles),
            ]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.setdefault(kind, []).append(json.loads(answer.splitlines()[-1]))
    print(machine)
    print(f"segments of {SEGMENT}, context {CONTEXT}, stride {STRIDE}, articles of {TOKENS} tokens, rank {RANK}")
    for kind, runs in found.items():
        tokens, peak = (statistics.median(run[name] for run in runs) for name in ("tokens", "peak"))
        bound = TOKENS / cost_of_article(kind).least_seconds(machine)
        print(f"{kind:18} {tokens:7.1f} tokens/s, {tokens / bound:4.0%} of {bound:5.1f}; peak {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
