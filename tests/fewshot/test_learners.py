"""Every learner through the one interface: tasks side by side equal tasks alone, and each does what its paper says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dynlm.errors import UserError
from dynlm.fewshot.learners.learner import Learned, Learner
from dynlm.fewshot.learners.maml import Maml, loss_shares
from dynlm.fewshot.learners.nearest_neighbour import NearestPixels
from dynlm.fewshot.learners.prototypes import prototypes, squared_distances
from dynlm.fewshot.learners.reptile import minibatches
from dynlm.fewshot.open import open_learner
from dynlm.fewshot.options import LEARNERS, UNTRAINED, EpisodeShape, FewShotConfig, LearnerConfig, TaskConfig
from dynlm.fewshot.tasks.episodes import Episodes, Labelled, seeded
from dynlm.fewshot.tasks.regression import CURVES

SMALL = {"reader_hidden": 6, "inner_steps": 2, "inner_rate": 0.1}
OF_IMAGES, OF_CURVES = {"filters": 4, "layers": 2}, {"hidden": [8]}
CLASSIFYING = [kind for kind in LEARNERS if kind != "random"]
TRAINED = [kind for kind in LEARNERS if kind not in UNTRAINED]


def image_config(kind: str, **options: object) -> FewShotConfig:
    if kind == "prototypes":
        options = {"statistics": "running", **options}
    return FewShotConfig(
        task=TaskConfig(ways=3, queries=4, size=12),
        learner=LearnerConfig(kind, **{**SMALL, **OF_IMAGES, **options}),  # type: ignore[arg-type]
    )


def curve_config(kind: str, **options: object) -> FewShotConfig:
    learner = LearnerConfig(kind, **{**SMALL, **OF_CURVES, **options})  # type: ignore[arg-type]
    return FewShotConfig(task=TaskConfig("cubic"), learner=learner)


def image_episodes(tasks: int = 3, shots: int = 2, seed: int = 0) -> Episodes:
    """Each class is a picture with noise."""
    generator = seeded(seed)
    pictures = torch.rand(tasks, 3, 1, 12, 12, 1, generator=generator)
    images = (pictures + 0.3 * torch.rand(tasks, 3, shots + 4, 12, 12, 1, generator=generator)).clamp(0, 1)
    labels = torch.arange(3)
    return Episodes(
        Labelled(images[:, :, :shots].flatten(1, 2), labels.repeat_interleave(shots).repeat(tasks, 1)),
        Labelled(images[:, :, shots:].flatten(1, 2), labels.repeat_interleave(4).repeat(tasks, 1)),
    )


def curve_episodes(tasks: int = 3) -> Episodes:
    return CURVES["cubic"].sample("train", EpisodeShape(1, 10, 10), tasks, seeded(4))


def trainable(learner: Learner) -> Learned:
    learned = learner.initial(seeded(0))
    return Learned({name: tensor.requires_grad_() for name, tensor in learned.meta.items()}, learned.buffers)


def last_outputs(learner: Learner, learned: Learned, episodes: Episodes, steps: int = 2) -> torch.Tensor:
    *_, adapted = learner.adapt(learned, episodes.support, steps, [seeded(task) for task in range(episodes.tasks)])
    with torch.no_grad():
        return learner.predict(learned, adapted, episodes.query.inputs)


@pytest.mark.parametrize("kind", [kind for kind in LEARNERS if kind != "random"])
@pytest.mark.parametrize("images", [True, False], ids=["images", "curves"])
def test_tasks_side_by_side_equal_tasks_alone(kind: str, images: bool) -> None:
    if not images and kind in ("prototypes", "pixels"):
        pytest.skip("needs classes")
    config = image_config(kind) if images else curve_config(kind)
    episodes = image_episodes() if images else curve_episodes()
    learner = open_learner(config)
    learned = learner.initial(seeded(0))
    together = last_outputs(learner, learned, episodes)
    alone = torch.cat([last_outputs(learner, learned, episodes.task(task)) for task in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in TRAINED if kind not in ("prototypes", "lstm-reader", "reptile")])
def test_meta_gradients_are_means_over_tasks(kind: str) -> None:
    learner = open_learner(curve_config(kind))
    learned, episodes = trainable(learner), curve_episodes()
    together = learner.meta_step(learned, episodes, 0.9, seeded(1))
    alone = [learner.meta_step(learned, episodes.task(task), 0.9, seeded(1)) for task in range(3)]
    assert together.loss == pytest.approx(sum(one.loss for one in alone) / 3, rel=1e-4)
    for name, gradient in together.gradients.items():
        mean = sum(one.gradients[name] for one in alone) / 3
        torch.testing.assert_close(gradient, mean, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", TRAINED)
def test_a_few_meta_steps_lower_the_loss_of_the_same_episodes(kind: str) -> None:
    config = image_config(kind, inner_rate=0.3 if kind == "reptile" else 0.05, filters=8)
    learner = open_learner(config)
    learned, episodes = trainable(learner), image_episodes(4)
    rate = 1.0 if kind == "reptile" else 0.02
    optimiser = (torch.optim.SGD if kind == "reptile" else torch.optim.Adam)(learned.meta.values(), lr=rate)
    losses = []
    for step in range(25):
        done = learner.meta_step(learned, episodes, 0.5, seeded(2, step))
        learned = Learned(learned.meta, done.buffers)
        losses.append(done.loss)
        for name, tensor in learned.meta.items():
            tensor.grad = done.gradients.get(name)
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("kind", ["maml", "fomaml", "anil", "meta-sgd", "reptile", "lstm-optimiser"])
def test_no_steps_leave_the_start_as_it_is(kind: str) -> None:
    learner = open_learner(curve_config(kind))
    learned = learner.initial(seeded(0))
    (adapted,) = learner.adapt(learned, curve_episodes().support, 0, [])
    for name, tensor in adapted.state.items():
        assert torch.equal(tensor, learned.meta[name].expand_as(tensor))


def test_anil_moves_the_head_alone() -> None:
    learner = open_learner(image_config("anil"))
    learned = learner.initial(seeded(0))
    *_, adapted = learner.adapt(learned, image_episodes().support, 2, [])
    for name, tensor in adapted.state.items():
        moved = not torch.equal(tensor, learned.meta[name].expand_as(tensor))
        assert moved == name.startswith("head.")


def test_first_and_second_order_differ_and_annealing_goes_from_one_to_the_other() -> None:
    learners = {kind: open_learner(curve_config(kind)) for kind in ("maml", "fomaml")}
    annealed = open_learner(curve_config("maml", first_order_share=0.5))
    learned, episodes = trainable(learners["maml"]), curve_episodes()

    def gradient(learner: Learner, progress: float) -> torch.Tensor:
        return learner.meta_step(learned, episodes, progress, seeded(0)).gradients["linear.0.weight"]

    first, second = gradient(learners["fomaml"], 0.9), gradient(learners["maml"], 0.1)
    assert not torch.allclose(first, second, rtol=1e-2)
    assert torch.equal(gradient(annealed, 0.4), first)
    assert torch.equal(gradient(annealed, 0.6), second)


def test_meta_sgd_and_maml_plus_plus_learn_their_rates() -> None:
    for kind, shape in (("meta-sgd", (1, 8)), ("maml++", (2,))):
        learner = open_learner(curve_config(kind))
        learned = trainable(learner)
        assert learned.meta["rate.linear.0.weight"].shape == shape
        gradients = learner.meta_step(learned, curve_episodes(), 0.9, seeded(0)).gradients
        assert float(gradients["rate.linear.0.weight"].abs().sum()) > 0


def test_maml_plus_plus_norms_of_each_step_are_learned_and_not_adapted() -> None:
    learner = open_learner(image_config("maml++", statistics="running"))
    assert isinstance(learner, Maml) and not any(name.startswith("norm.") for name in learner.moving)
    learned, episodes = trainable(learner), image_episodes()
    assert learned.meta["norm.0.scale"].shape == (3, 4)
    done = learner.meta_step(learned, episodes, 0.5, seeded(0))  # at second order every step counts
    assert (done.gradients["norm.0.scale"].abs().sum(1) > 0).all()
    running, fresh = done.buffers["running.norm.0.mean"], learned.buffers["running.norm.0.mean"]
    assert torch.equal(running[0], fresh[0]) and not torch.equal(running[2], fresh[2])


def test_loss_shares_sum_to_one_and_end_at_the_last_step() -> None:
    for progress in (0.0, 0.05, 0.1, 1.0):
        shares = loss_shares(5, True, progress, 0.1)
        assert sum(shares) == pytest.approx(1) and shares[0] == 0
    assert loss_shares(5, True, 0.0, 0.1)[1:] == pytest.approx([0.2] * 5)
    assert loss_shares(5, True, 0.9, 0.0)[1:] == pytest.approx([0.2] * 5)
    assert loss_shares(5, True, 0.5, 0.1) == loss_shares(5, False, 0.0, 0.1) == [0, 0, 0, 0, 0, 1]


def test_transduction_is_told_apart() -> None:
    """Only transductive statistics let a query's answer depend on the other queries."""
    episodes = image_episodes(2)
    first = Episodes(episodes.support, Labelled(episodes.query.inputs[:, :1], episodes.query.targets[:, :1]))
    for kind in ("maml", "prototypes"):
        for statistics in ("transductive", "inductive", "running"):
            if (kind, statistics) == ("prototypes", "inductive"):
                continue
            learner = open_learner(image_config(kind, statistics=statistics))
            learned = learner.initial(seeded(0))
            alone, among = (last_outputs(learner, learned, each)[:, 0] for each in (first, episodes))
            assert torch.allclose(alone, among, atol=1e-4) == (statistics != "transductive"), (kind, statistics)


def test_random_starts_differ_from_task_to_task_and_come_from_the_generator() -> None:
    learner = open_learner(curve_config("random"))
    support = curve_episodes().support
    starts = [
        next(learner.adapt(Learned({}, {}), support, 1, [seeded(seed, task) for task in range(len(support.inputs))]))
        for seed in (1, 1, 2)
    ]
    weights = [start.state["linear.0.weight"] for start in starts]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0][0], weights[0][1])


def test_a_random_start_takes_adams_steps_where_asked() -> None:
    support, weights = curve_episodes(1).support, {}
    for optimiser in ("sgd", "adam"):
        learner = open_learner(curve_config("random", inner_optimizer=optimiser, inner_rate=0.01))
        first, second = list(learner.adapt(Learned({}, {}), support, 1, [seeded(1)]))
        weights[optimiser] = first.state["linear.0.bias"], second.state["linear.0.bias"]
    assert torch.equal(weights["sgd"][0], weights["adam"][0])
    moved = (weights["adam"][1] - weights["adam"][0]).abs()
    assert ((moved < 1e-6) | ((moved - 0.01).abs() < 1e-4)).all() and bool((moved > 0.009).any())


def test_maml_plus_plus_has_its_fixes_where_nothing_else_is_said() -> None:
    fixes = ("multi_step_loss", "per_step_rates", "per_step_norm", "first_order_share")

    def said(config: LearnerConfig) -> list[object]:
        return [getattr(config, name) for name in fixes]

    assert said(LearnerConfig("maml++")) == [True, True, True, 0.3]
    assert said(LearnerConfig("maml++", first_order_share=0.0, per_step_norm=False)) == [True, True, False, 0.0]
    assert said(LearnerConfig("maml")) == [False, False, False, 0.0]
    with pytest.raises(UserError, match="learner.first_order_share is set, but learner.kind is 'reptile'"):
        LearnerConfig("reptile", first_order_share=0.5)


@pytest.mark.parametrize(
    "task, learner, said",
    [
        ({}, {"kind": "fomaml", "first_order_share": 0.5}, "learner.first_order_share is set, but fomaml"),
        ({}, {"kind": "maml", "annealed_share": 0.5}, "learner.annealed_share is set, but there is no multi-step loss"),
        ({}, {"kind": "maml++", "multi_step_loss": False, "annealed_share": 0.0}, "learner.annealed_share is set"),
        ({"source": "cubic"}, {"filters": 32}, "learner.filters is for images alone, and task.source is 'cubic'"),
        ({"source": "sinusoid"}, {"pooling": True}, "learner.pooling is for images alone"),
        ({"source": "glyphs"}, {"hidden": [80]}, "learner.hidden is for cubic and sinusoid alone"),
        ({"source": "glyphs"}, {"gains": [1.0, 1.0, 2.0]}, "learner.gains is for cubic and sinusoid alone"),
    ],
)
def test_what_a_learner_would_not_look_at_is_refused(task: dict[str, Any], learner: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        FewShotConfig(task=TaskConfig(**task), learner=LearnerConfig(**learner))
    assert said in str(error.value)


def test_reptile_moves_toward_where_tasks_ended() -> None:
    learner = open_learner(curve_config("reptile"))
    learned, episodes = trainable(learner), curve_episodes()
    done = learner.meta_step(learned, episodes, 0.0, seeded(0))
    *_, adapted = learner.adapt(learned, episodes.support, 2, [])
    for name, gradient in done.gradients.items():
        torch.testing.assert_close(learned.meta[name] - gradient, adapted.state[name].mean(0))


def test_reptile_with_adam_equals_torchs_adam() -> None:
    config = curve_config("reptile", inner_optimizer="adam", inner_rate=0.01)
    learner = open_learner(config)
    learned, support = learner.initial(seeded(0)), curve_episodes(1).support
    *_, adapted = learner.adapt(learned, support, 3, [])
    weights = {name: tensor.clone().requires_grad_() for name, tensor in learned.meta.items()}
    adam = torch.optim.Adam(weights.values(), lr=0.01, betas=(0.0, 0.999))
    for _ in range(3):
        adam.zero_grad()
        outputs, _ = learner.net.forward(weights, support.inputs[0])  # type: ignore[attr-defined]
        learner.loss(outputs, support.targets[0]).backward()
        adam.step()
    for name, tensor in weights.items():
        torch.testing.assert_close(adapted.state[name][0], tensor.detach(), rtol=1e-3, atol=1e-5)


def test_minibatches_go_through_the_support_set() -> None:
    support = Labelled(torch.arange(10.0).reshape(1, 10, 1), torch.arange(10).reshape(1, 10))
    batches = minibatches(support, 5, 4, seeded(0))
    assert [batch.targets.shape for batch in batches] == [(1, 5)] * 4
    for one, other in (batches[:2], batches[2:]):
        assert sorted([*one.targets[0].tolist(), *other.targets[0].tolist()]) == list(range(10))
    assert minibatches(support, 0, 2, seeded(0)) == [support, support]


def test_prototypes_are_class_means_and_distances_are_squared() -> None:
    features = torch.randn(2, 6, 5, generator=seeded(0))
    classes = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 1, 0, 0]])
    means = prototypes(features, classes)
    for task in range(2):
        for kind in range(3):
            torch.testing.assert_close(means[task, kind], features[task][classes[task] == kind].mean(0))
    torch.testing.assert_close(
        squared_distances(features, means), torch.cdist(features, means).square(), rtol=1e-4, atol=1e-4
    )


def test_nearest_pixels_are_the_nearest() -> None:
    episodes = image_episodes(5)
    learner = NearestPixels()
    answers = last_outputs(learner, Learned({}, {}), episodes).argmax(-1)
    distances = torch.cdist(episodes.query.inputs.flatten(2), episodes.support.inputs.flatten(2))
    assert torch.equal(answers, episodes.support.targets.gather(1, distances.argmin(-1)))


def test_the_reader_answers_each_query_for_itself_and_reads_labels() -> None:
    learner = open_learner(curve_config("lstm-reader"))
    learned, episodes = learner.initial(seeded(0)), curve_episodes()
    first = Episodes(episodes.support, Labelled(episodes.query.inputs[:, :1], episodes.query.targets[:, :1]))
    alone, among = (last_outputs(learner, learned, each)[:, 0] for each in (first, episodes))
    torch.testing.assert_close(alone, among)
    other = Episodes(episodes.support._replace(targets=-episodes.support.targets), episodes.query)
    assert not torch.allclose(last_outputs(learner, learned, other), last_outputs(learner, learned, episodes))


@pytest.mark.parametrize("kind", CLASSIFYING)
def test_adapting_changes_no_meta_parameter(kind: str) -> None:
    learner = open_learner(image_config(kind))
    learned = learner.initial(seeded(0))
    before = {name: tensor.clone() for name, tensor in learned.meta.items()}
    last_outputs(learner, learned, image_episodes())
    assert all(torch.equal(before[name], tensor) for name, tensor in learned.meta.items())
    assert replace(image_config(kind).learner, kind=kind).kind == kind
