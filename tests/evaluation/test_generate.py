"""Generation: repeatable, and changed by what the memory learned."""

from __future__ import annotations

import pytest
import torch

from dynlm.adapt.next_token import predict_next
from dynlm.data.articles import load_articles
from dynlm.errors import UserError
from dynlm.evaluation.generate import generate, read_prompt, sample
from dynlm.evaluation.sampling import Sampling, Stop
from dynlm.evaluation.session import Session
from dynlm.run.folder import load_model, params_fingerprint
from dynlm.run.opening import open_dynamic_model
from dynlm.train.config import Config
from tests.tiny import Run, generated, opened, tiny_config, with_memory

PROMPT = " the bafidela of the town was seen near a bafidela . \n"
CACHE = {"cache_window": 50, "cache_inverse_temperature": [0.5], "cache_share": 0.3}


def seeded(run: Run, seed: int) -> Config:
    return with_memory(tiny_config(run.corpus, run.folder.parent, run={"seed": seed}), rule="none")


def test_same_seed_same_text(tuned_run: Run) -> None:
    texts = [generated(tuned_run.folder, seeded(tuned_run, seed), PROMPT, 30) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_without_temperature_or_choice_the_likeliest_is_taken(tuned_run: Run) -> None:
    cold = {generated(tuned_run.folder, seeded(tuned_run, seed), PROMPT, 20, temperature=0) for seed in (1, 2)}
    only = {generated(tuned_run.folder, seeded(tuned_run, seed), PROMPT, 20, top_k=1) for seed in (1, 2)}
    assert len(cold) == 1
    assert cold == only


def test_drawing_among_all_is_drawing_among_as_many_as_there_are(tuned_run: Run) -> None:
    everything = generated(tuned_run.folder, seeded(tuned_run, 1), PROMPT, 20, top_k=0)
    assert everything == generated(tuned_run.folder, seeded(tuned_run, 1), PROMPT, 20, top_k=100_000)


def test_generation_continues_the_prompt(tuned_run: Run) -> None:
    """At level 1, generating n tokens and going on from them is generating them at once."""
    config = seeded(tuned_run, 0)
    whole = generated(tuned_run.folder, config, "", 40, temperature=0)
    tokenizer = load_model(tuned_run.folder).tokenizer
    for cut in range(8, len(whole)):
        begun, rest = whole[:cut], whole[cut:]
        if [*tokenizer.encode(begun).ids, *tokenizer.encode(rest).ids] == [*tokenizer.encode(whole).ids]:
            break
    else:
        pytest.fail("no place to cut the text between two tokens")
    count = len(tokenizer.encode(rest).ids)
    assert generated(tuned_run.folder, config, begun, count, temperature=0) == rest


def test_a_memory_learns_a_word_that_the_prompt_repeats(tuned_run: Run) -> None:
    """A word of no training article is generated only by a rule that learned it from the prompt."""
    prompt = PROMPT * 30
    plain = generated(tuned_run.folder, with_memory(tuned_run.config, rule="none"), prompt, 30, temperature=0)
    learned = generated(tuned_run.folder, with_memory(tuned_run.config, rule="rms"), prompt, 30, temperature=0)
    assert learned != plain
    assert "bafidela" in learned
    assert "bafidela" not in plain


def test_zero_rates_generate_what_level_1_generates(tuned_run: Run) -> None:
    plain = generated(tuned_run.folder, with_memory(tuned_run.config, rule="none"), PROMPT * 4, 40)
    zero = generated(tuned_run.folder, with_memory(tuned_run.config, rule="sgd", lr=0.0), PROMPT * 4, 40)
    assert zero == plain


def test_a_mixture_generates_with_the_better_expert(tuned_run: Run) -> None:
    """Where the rule is better, with the words it learned; where it diverges, with level 1's likeliest ones."""
    prompt = PROMPT * 30
    plain = generated(tuned_run.folder, with_memory(tuned_run.config, rule="none"), prompt, 30, temperature=0)
    taken_up, wild = (
        generated(tuned_run.folder, with_memory(tuned_run.config, no_regret=True, **options), prompt, 30, temperature=0)
        for options in ({"rule": "rms"}, {"rule": "sgd", "lr": 1e4})
    )
    assert "bafidela" in taken_up
    assert wild == plain


def test_only_what_is_asked_for_is_learned_from(tuned_run: Run) -> None:
    """Learning from the generated text changes what follows its first segment, and neither prompt nor caller."""
    config = with_memory(tuned_run.config, rule="sgd", lr=0.5, segment=5)
    session = Session.open(opened(tuned_run.folder, config))
    start = read_prompt(session, PROMPT)
    before, sampling = start.memory.copy(), Sampling(100, temperature=1.0, top_k=0)
    plain, learned = (list(sample(session.dynamic_model, start, sampling, segment)) for segment in (None, 5))
    assert plain == list(sample(session.dynamic_model, start, sampling))
    assert plain[:5] == learned[:5] and plain != learned
    for name, tensor in before.params.items():
        assert torch.equal(tensor, session.saved.memory.params[name])
    still = Session.open(opened(tuned_run.folder, with_memory(config, rule="sgd", lr=0.0)))
    start = read_prompt(still, PROMPT)
    assert [*sample(still.dynamic_model, start, sampling, 5)] == [*sample(still.dynamic_model, start, sampling)]


def test_nothing_is_generated_from_weights_that_are_not_finite(tuned_run: Run) -> None:
    session = Session.open(opened(tuned_run.folder, with_memory(tuned_run.config, rule="rms")))
    start = read_prompt(session, PROMPT)
    for tensor in start.memory.params.values():
        tensor.fill_(torch.nan)
    with pytest.raises(UserError, match="weights are not finite"):
        next(sample(session.dynamic_model, start, Sampling()))


def test_what_is_generated_and_learned_is_a_text_that_is_read(tuned_run: Run) -> None:
    """After whole segments the next distribution is that of a session which read prompt and generated tokens."""
    config = with_memory(tuned_run.config, rule="rms", cache="fixed", segment=10, no_regret=True, **CACHE)
    session = Session.open(opened(tuned_run.folder, config))
    tokenizer, dynamic_model = session.trained.tokenizer, session.dynamic_model
    # A prompt of whole segments, so that those of the generated text are the next ones.
    prompt = tokenizer.decode(tokenizer.encode(PROMPT * 9).ids[:120])
    assert len(tokenizer.encode(prompt).ids) == 120
    start = read_prompt(session.copy(), prompt)
    made = list(sample(dynamic_model, start, Sampling(21, temperature=0), 10))
    text = tokenizer.decode(made[:20])
    if [*tokenizer.encode(prompt + text).ids] != [*tokenizer.encode(prompt).ids, *made[:20]]:
        pytest.skip("the generated tokens are not those of their text")
    (again,) = sample(dynamic_model, read_prompt(session.copy(), prompt + text), Sampling(1, temperature=0))
    assert again == made[20]


@pytest.mark.parametrize("no_regret", [False, True])
@pytest.mark.parametrize("rule", ["none", "rms"])
def test_the_mixed_distribution_is_one_and_expects_what_was_just_read(
    rule: str, no_regret: bool, tuned_run: Run
) -> None:
    """Of a model with a cache: it sums to 1, and words of the prompt are likelier than without the cache."""
    config = with_memory(tuned_run.config, rule=rule, no_regret=no_regret)
    p_with, p_without = (
        next_distribution(tuned_run, with_memory(config, **options), PROMPT * 2)
        for options in ({"cache": "fixed", **CACHE}, {})
    )
    assert float(p_with.sum()) == pytest.approx(1, abs=1e-5) and float(p_without.sum()) == pytest.approx(1, abs=1e-5)
    tokenizer = load_model(tuned_run.folder).tokenizer
    word = sorted(set(tokenizer.encode(" bafidela").ids.tolist()))
    others = [*set(range(tokenizer.size)) - set(tokenizer.encode(PROMPT).ids.tolist())]
    assert float(p_with[word].sum()) > float(p_without[word].sum())
    assert (p_with[others] < p_without[others]).all()


def next_distribution(run: Run, config: Config, prompt: str) -> torch.Tensor:
    """The probabilities (V) of the token after ``prompt``."""
    session = Session.open(opened(run.folder, config))
    start = read_prompt(session, prompt)
    logits_V, _ = predict_next(session.dynamic_model, start.memory, start.token)
    return logits_V.double().softmax(-1)


def test_a_text_is_generated_in_pieces_and_ends_before_a_stop(tuned_run: Run) -> None:
    config = with_memory(tuned_run.config, rule="none")
    session = Session.open(opened(tuned_run.folder, config))
    pieces = list(generate(session.copy(), PROMPT, Sampling(30, temperature=0)))
    whole = "".join(pieces)
    assert len(pieces) > 10 and whole == generated(tuned_run.folder, config, PROMPT, 30, temperature=0)
    stop = whole[12:16]
    ended = "".join(generate(session.copy(), PROMPT, Sampling(30, temperature=0), Stop((stop,))))
    assert ended == whole[: whole.index(stop)]


def test_any_text_is_a_prompt(tuned_run: Run) -> None:
    for prompt in ("", " ", "\n\n", "\u2581\x00", "Straße 東京 \U0001f600"):
        assert isinstance(generated(tuned_run.folder, with_memory(tuned_run.config, rule="rms"), prompt, 3), str)


def test_generating_changes_no_weights(tuned_run: Run) -> None:
    trained = load_model(tuned_run.folder)
    before = params_fingerprint(trained.params)
    open_dynamic_model(tuned_run.folder, trained, tuned_run.config.memory)
    generated(tuned_run.folder, tuned_run.config, PROMPT * 5, 10)
    assert params_fingerprint(load_model(tuned_run.folder).params) == before
    assert load_articles(tuned_run.config.corpus, "test")
