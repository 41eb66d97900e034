"""Text from a model that has read a prompt, and learned from it if its rule learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dynlm.adapt.loop import begin_articles
from dynlm.adapt.memory_file import SavedMemory, load_memory
from dynlm.adapt.partners.cache_next import log_next
from dynlm.adapt.reader import Reader
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.evaluation.session import one_lane, read_on
from dynlm.run.folder import load_model
from dynlm.run.rule_store import open_reader
from dynlm.runtime.distributed import Processes
from dynlm.train.config import Config


def generate(
    folder: Path,
    config: Config,
    prompt: str,
    tokens: int,
    temperature: float = 0.8,
    top: int = 40,
    memory_file: Path | None = None,
) -> str:
    """Read ``prompt`` as an article's opening by ``config.memory``, then sample ``tokens`` tokens that follow it.

    From ``memory_file`` it starts with what was read before, and the prompt goes on with an article that was left
    unfinished; the file stays as it is. Draws come from the run's seed. Raises UserError for options out of their
    range, and for a memory that does not fit.
    """
    check_draws(tokens, temperature, top)
    trained = load_model(folder, Processes.start(config.run.cpu).device)
    reader = open_reader(folder, trained, config.memory)
    saved = SavedMemory(reader.fresh_memory())
    if memory_file is not None:
        one_lane(config)
        saved = load_memory(memory_file, reader, config.memory, trained.fingerprint)
    generator = torch.Generator(trained.params["embedding"].device).manual_seed(config.run.seed)
    return go_on(reader, saved, trained.tokenizer, config.memory.segment, prompt, tokens, temperature, top, generator)


@torch.no_grad()
def go_on(
    reader: Reader,
    saved: SavedMemory,
    tokenizer: Tokenizer,
    segment: int,
    prompt: str,
    tokens: int,
    temperature: float,
    top: int,
    generator: torch.Generator,
) -> str:
    """``tokens`` tokens after ``prompt``, read with ``saved``, which is used up.

    Each is drawn from the ``top`` likeliest (0: all) at ``temperature`` (0: always the likeliest). What is generated is
    not learned from: it enters no cache, and a mixture's weights stay those of the prompt's end.
    """
    last = tokenizer.start
    if prompt or saved.unfinished is not None:
        told = (saved.unfinished.text if saved.unfinished else "") + prompt
        _, saved = read_on(reader, saved, prompt, tokenizer, segment)
        last = int(tokenizer.encode(told).ids[-1])
        memory = saved.memory
    else:
        starts_B = torch.ones(1, dtype=torch.bool, device=generator.device)
        memory = begin_articles(reader, saved.memory, np.ones(1, dtype=bool), starts_B)
    params = {**reader.static, **memory.of_lane(0)}
    hidden, hedge, generated = memory.hidden, memory.hedge, []
    for _ in range(tokens):
        token_11 = torch.tensor([[last]], device=generator.device)
        features_TBH, hidden, _ = reader.model.features(params, token_11, hidden)
        logits_BTV = F.linear(features_TBH, reader.model.output_weight(params), params["output.bias"]).transpose(0, 1)
        if reader.cache is not None and memory.cache is not None:
            logits_BTV = log_next(reader.cache, memory.cache, features_TBH.transpose(0, 1), logits_BTV)
        if hedge is not None:
            level_1_BTV, beside = reader.model.logits(reader.static, token_11, hedge.hidden)
            logits_BTV, hedge = hedge.log_mixture(level_1_BTV, logits_BTV), hedge._replace(hidden=beside)
        last = _draw(logits_BTV[0, 0], temperature, top, generator)
        generated.append(last)
    return tokenizer.decode(generated)


def check_draws(tokens: int, temperature: float, top: int) -> None:
    """Raise UserError for options out of their range."""
    if tokens < 1 or temperature < 0 or top < 0:
        raise UserError("generate needs tokens of at least 1, and temperature and top of at least 0")


def _draw(logits_V: torch.Tensor, temperature: float, top: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    if top and top < len(logits_V):
        values, places = logits_V.topk(top)
        return int(places[torch.multinomial((values / temperature).softmax(-1), 1, generator=generator)])
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))
