"""Generation: repeatable, and changed by what the memory learned."""

from __future__ import annotations

import pytest

from dynlm.data.articles import load_articles
from dynlm.errors import UserError
from dynlm.run.folder import load_model, params_fingerprint
from dynlm.run.opening import open_dynamic_model
from dynlm.train.config import Config
from tests.tiny import Run, generated, tiny_config, with_memory

PROMPT = " the bafidela of the town was seen near a bafidela . \n"


def seeded(run: Run, seed: int) -> Config:
    return with_memory(tiny_config(run.corpus, run.folder.parent, run={"seed": seed}), rule="none")


def test_same_seed_same_text(tuned_run: Run) -> None:
    texts = [generated(tuned_run.folder, seeded(tuned_run, seed), PROMPT, 30) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_without_temperature_or_choice_the_likeliest_is_taken(tuned_run: Run) -> None:
    cold = {generated(tuned_run.folder, seeded(tuned_run, seed), PROMPT, 20, temperature=0) for seed in (1, 2)}
    only = {generated(tuned_run.folder, seeded(tuned_run, seed), PROMPT, 20, top=1) for seed in (1, 2)}
    assert len(cold) == 1
    assert cold == only


def test_drawing_among_all_is_drawing_among_as_many_as_there_are(tuned_run: Run) -> None:
    everything = generated(tuned_run.folder, seeded(tuned_run, 1), PROMPT, 20, top=0)
    assert everything == generated(tuned_run.folder, seeded(tuned_run, 1), PROMPT, 20, top=100_000)


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


@pytest.mark.parametrize("options", [{"tokens": 0}, {"tokens": 5, "temperature": -0.1}, {"tokens": 5, "top": -1}])
def test_options_out_of_range_are_refused(options: dict[str, float], tuned_run: Run) -> None:
    with pytest.raises(UserError, match="generate needs"):
        generated(tuned_run.folder, with_memory(tuned_run.config, rule="none"), PROMPT, **options)  # type: ignore[arg-type]


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
