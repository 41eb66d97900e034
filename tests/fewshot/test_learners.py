"""All learners through their interface: batched tasks equal single ones, and each follows its paper."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dynlm.fewshot.learners.learner import LEARNERS, Learned, SupervisedLearner
from dynlm.fewshot.learners.maml import Maml
from dynlm.fewshot.learners.prototypes import class_means, squared_distances
from dynlm.fewshot.learners.reptile import minibatches
from dynlm.fewshot.tasks.regression import Cubic
from dynlm.fewshot.tasks.source import Episodes, EpisodeShape, Labelled, Problem, seeded

SMALL = {"reader_hidden": 6, "inner_steps": 2, "inner_rate": 0.1, "filters": 4, "layers": 2, "hidden": [8]}
SUPERVISED = [kind for kind in LEARNERS.names() if issubclass(LEARNERS[kind], SupervisedLearner)]
TRAINED = [kind for kind in SUPERVISED if LEARNERS[kind].is_trained]
IMAGES = Problem((12, 12, 1), 3, classifies=True)


def learner_of(kind: str, problem: Problem, **options: object) -> SupervisedLearner:
    options_type = LEARNERS[kind].Options
    if kind == "prototypes":
        options = {"statistics": "running", **options}
    own = {item.name for item in dataclasses.fields(options_type)}
    made = options_type(**{**{name: value for name, value in SMALL.items() if name in own}, **options})  # type: ignore[arg-type]
    learner: SupervisedLearner = LEARNERS[kind](made, problem)
    return learner


def image_learner(kind: str, **options: object) -> SupervisedLearner:
    return learner_of(kind, IMAGES, **options)


def curve_learner(kind: str, **options: object) -> SupervisedLearner:
    return learner_of(kind, Cubic.problem, **options)


def image_episodes(tasks: int = 3, shots: int = 2, seed: int = 0) -> Episodes:
    """Each class is one image with noise."""
    generator = seeded(seed)
    pictures = torch.rand(tasks, 3, 1, 12, 12, 1, generator=generator)
    images = (pictures + 0.3 * torch.rand(tasks, 3, shots + 4, 12, 12, 1, generator=generator)).clamp(0, 1)
    labels = torch.arange(3)
    return Episodes(
        Labelled(images[:, :, :shots].flatten(1, 2), labels.repeat_interleave(shots).repeat(tasks, 1)),
        Labelled(images[:, :, shots:].flatten(1, 2), labels.repeat_interleave(4).repeat(tasks, 1)),
    )


def curve_episodes(tasks: int = 3) -> Episodes:
    return Cubic(Cubic.Options()).sample("train", EpisodeShape(1, 10, 10), tasks, seeded(4))


def task_of(episodes: Episodes, index: int) -> Episodes:
    """One of the tasks as a batch of one."""
    support, query = (Labelled(*(tensor[index : index + 1] for tensor in part)) for part in episodes)
    return Episodes(support, query)


def trainable(learner: SupervisedLearner) -> Learned:
    learned = learner.initial(seeded(0))
    return Learned({name: tensor.requires_grad_() for name, tensor in learned.meta.items()}, learned.buffers)


def last_outputs(learner: SupervisedLearner, learned: Learned, episodes: Episodes, steps: int = 2) -> torch.Tensor:
    *_, adapted = learner.adapt(learned, episodes.support, steps, [seeded(task) for task in range(episodes.tasks)])
    with torch.no_grad():
        return learner.predict(learned, adapted, episodes.query.inputs)


@pytest.mark.parametrize("kind", [kind for kind in SUPERVISED if kind != "random"])
@pytest.mark.parametrize("images", [True, False], ids=["images", "curves"])
def test_batched_tasks_equal_single_tasks(kind: str, images: bool) -> None:
    if not images and LEARNERS[kind].any_ways:
        pytest.skip("needs classes")
    learner = image_learner(kind) if images else curve_learner(kind)
    episodes = image_episodes() if images else curve_episodes()
    learned = learner.initial(seeded(0))
    together = last_outputs(learner, learned, episodes)
    alone = torch.cat([last_outputs(learner, learned, task_of(episodes, task)) for task in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in TRAINED if kind not in ("prototypes", "lstm-reader", "reptile")])
def test_meta_gradients_are_means_over_tasks(kind: str) -> None:
    learner = curve_learner(kind)
    learned, episodes = trainable(learner), curve_episodes()
    together = learner.meta_step(learned, episodes, 0.9, seeded(1))
    alone = [learner.meta_step(learned, task_of(episodes, task), 0.9, seeded(1)) for task in range(3)]
    assert together.loss == pytest.approx(sum(one.loss for one in alone) / 3, rel=1e-4)
    for name, gradient in together.gradients.items():
        mean = sum(one.gradients[name] for one in alone) / 3
        torch.testing.assert_close(gradient, mean, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", TRAINED)
def test_meta_steps_lower_the_loss(kind: str) -> None:
    rates = {} if kind in ("prototypes", "lstm-reader") else {"inner_rate": 0.3 if kind == "reptile" else 0.05}
    learner = image_learner(kind, filters=8, **rates)
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
def test_without_steps_weights_are_initial(kind: str) -> None:
    learner = curve_learner(kind)
    learned = learner.initial(seeded(0))
    (adapted,) = learner.adapt(learned, curve_episodes().support, 0, [])
    for name, tensor in adapted.state.items():
        assert torch.equal(tensor, learned.meta[name].expand_as(tensor))


def test_anil_adapts_only_the_head() -> None:
    learner = image_learner("anil")
    learned = learner.initial(seeded(0))
    *_, adapted = learner.adapt(learned, image_episodes().support, 2, [])
    for name, tensor in adapted.state.items():
        moved = not torch.equal(tensor, learned.meta[name].expand_as(tensor))
        assert moved == name.startswith("head.")


def test_first_order_share_switches_from_first_to_second_order() -> None:
    learners = {kind: curve_learner(kind) for kind in ("maml", "fomaml")}
    annealed = curve_learner("maml", first_order_share=0.5)
    learned, episodes = trainable(learners["maml"]), curve_episodes()

    def gradient(learner: SupervisedLearner, progress: float) -> torch.Tensor:
        return learner.meta_step(learned, episodes, progress, seeded(0)).gradients["linear.0.weight"]

    first, second = gradient(learners["fomaml"], 0.9), gradient(learners["maml"], 0.1)
    assert not torch.allclose(first, second, rtol=1e-2)
    assert torch.equal(gradient(annealed, 0.4), first)
    assert torch.equal(gradient(annealed, 0.6), second)


def test_meta_sgd_and_maml_plus_plus_learn_rates() -> None:
    for kind, shape in (("meta-sgd", (1, 8)), ("maml++", (2,))):
        learner = curve_learner(kind)
        learned = trainable(learner)
        assert learned.meta["rate.linear.0.weight"].shape == shape
        gradients = learner.meta_step(learned, curve_episodes(), 0.9, seeded(0)).gradients
        assert float(gradients["rate.linear.0.weight"].abs().sum()) > 0


def test_maml_plus_plus_learns_batch_norm_of_each_step() -> None:
    learner = image_learner("maml++", statistics="running")
    assert isinstance(learner, Maml) and not any(name.startswith("norm.") for name in learner.loop.adapted)
    learned, episodes = trainable(learner), image_episodes()
    assert learned.meta["norm.0.scale"].shape == (3, 4)
    done = learner.meta_step(learned, episodes, 0.5, seeded(0))  # at second order every step counts
    assert (done.gradients["norm.0.scale"].abs().sum(1) > 0).all()
    running, fresh = done.buffers["running.norm.0.mean"], learned.buffers["running.norm.0.mean"]
    assert torch.equal(running[0], fresh[0]) and not torch.equal(running[2], fresh[2])


def test_multi_step_weights_sum_to_one_and_end_at_the_last_step() -> None:
    def weights(multi_step: bool, progress: float, annealed: float = 0.1) -> list[float]:
        options = {"multi_step_loss": multi_step, "annealed_share": annealed}
        learner = curve_learner("maml", inner_steps=5, **options)
        assert isinstance(learner, Maml)
        return learner.loss_weights(progress)

    for progress in (0.0, 0.05, 0.1, 1.0):
        assert sum(weights(True, progress)) == pytest.approx(1) and weights(True, progress)[0] == 0
    assert weights(True, 0.0)[1:] == pytest.approx([0.2] * 5)
    assert weights(True, 0.9, 0.0)[1:] == pytest.approx([0.2] * 5)
    assert weights(True, 0.5) == weights(False, 0.0) == [0, 0, 0, 0, 0, 1]


def test_only_transductive_predictions_depend_on_other_queries() -> None:
    episodes = image_episodes(2)
    first = Episodes(episodes.support, Labelled(episodes.query.inputs[:, :1], episodes.query.targets[:, :1]))
    for kind in ("maml", "prototypes"):
        for statistics in ("transductive", "inductive", "running"):
            if (kind, statistics) == ("prototypes", "inductive"):
                continue
            learner = image_learner(kind, statistics=statistics)
            learned = learner.initial(seeded(0))
            alone, among = (last_outputs(learner, learned, each)[:, 0] for each in (first, episodes))
            assert torch.allclose(alone, among, atol=1e-4) == (statistics != "transductive"), (kind, statistics)


def test_random_starts_depend_on_the_generator_of_each_task() -> None:
    learner = curve_learner("random")
    support = curve_episodes().support
    starts = [
        next(learner.adapt(Learned({}, {}), support, 1, [seeded(seed, task) for task in range(len(support.inputs))]))
        for seed in (1, 1, 2)
    ]
    weights = [start.state["linear.0.weight"] for start in starts]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0][0], weights[0][1])


def test_a_random_start_takes_steps_of_adam() -> None:
    support, weights = curve_episodes(1).support, {}
    for optimiser in ("sgd", "adam"):
        learner = curve_learner("random", inner_optimizer=optimiser, inner_rate=0.01)
        first, second = list(learner.adapt(Learned({}, {}), support, 1, [seeded(1)]))
        weights[optimiser] = first.state["linear.0.bias"], second.state["linear.0.bias"]
    assert torch.equal(weights["sgd"][0], weights["adam"][0])
    moved = (weights["adam"][1] - weights["adam"][0]).abs()
    assert ((moved < 1e-6) | ((moved - 0.01).abs() < 1e-4)).all() and bool((moved > 0.009).any())


def test_reptiles_gradient_is_the_distance_to_the_adapted_weights() -> None:
    learner = curve_learner("reptile")
    learned, episodes = trainable(learner), curve_episodes()
    done = learner.meta_step(learned, episodes, 0.0, seeded(0))
    *_, adapted = learner.adapt(learned, episodes.support, 2, [])
    for name, gradient in done.gradients.items():
        torch.testing.assert_close(learned.meta[name] - gradient, adapted.state[name].mean(0))


def test_reptile_with_adam_equals_torchs_adam() -> None:
    learner = curve_learner("reptile", inner_optimizer="adam", inner_rate=0.01)
    learned, support = learner.initial(seeded(0)), curve_episodes(1).support
    *_, adapted = learner.adapt(learned, support, 3, [])
    weights = {name: tensor.clone().requires_grad_() for name, tensor in learned.meta.items()}
    adam = torch.optim.Adam(weights.values(), lr=0.01, betas=(0.0, 0.999))
    for _ in range(3):
        adam.zero_grad()
        outputs, _ = learner.net.forward(weights, support.inputs[0])  # type: ignore[attr-defined]
        learner.problem.loss(outputs, support.targets[0]).backward()
        adam.step()
    for name, tensor in weights.items():
        torch.testing.assert_close(adapted.state[name][0], tensor.detach(), rtol=1e-3, atol=1e-5)


def test_minibatches_cover_the_support_set() -> None:
    support = Labelled(torch.arange(10.0).reshape(1, 10, 1), torch.arange(10).reshape(1, 10))
    batches = minibatches(support, 5, 4, seeded(0))
    assert [batch.targets.shape for batch in batches] == [(1, 5)] * 4
    for one, other in (batches[:2], batches[2:]):
        assert sorted([*one.targets[0].tolist(), *other.targets[0].tolist()]) == list(range(10))
    assert minibatches(support, 0, 2, seeded(0)) == [support, support]


def test_prototypes_are_class_means_and_distances_are_squared() -> None:
    features = torch.randn(2, 6, 5, generator=seeded(0))
    classes = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 1, 0, 0]])
    means = class_means(features, classes)
    for task in range(2):
        for kind in range(3):
            torch.testing.assert_close(means[task, kind], features[task][classes[task] == kind].mean(0))
    torch.testing.assert_close(
        squared_distances(features, means), torch.cdist(features, means).square(), rtol=1e-4, atol=1e-4
    )


def test_nearest_neighbour_agrees_with_distances() -> None:
    episodes = image_episodes(5)
    learner = image_learner("nearest-neighbour")
    answers = last_outputs(learner, Learned({}, {}), episodes).argmax(-1)
    distances = torch.cdist(episodes.query.inputs.flatten(2), episodes.support.inputs.flatten(2))
    assert torch.equal(answers, episodes.support.targets.gather(1, distances.argmin(-1)))


def test_the_lstm_reader_depends_on_labels_and_not_on_other_queries() -> None:
    learner = curve_learner("lstm-reader")
    learned, episodes = learner.initial(seeded(0)), curve_episodes()
    first = Episodes(episodes.support, Labelled(episodes.query.inputs[:, :1], episodes.query.targets[:, :1]))
    alone, among = (last_outputs(learner, learned, each)[:, 0] for each in (first, episodes))
    torch.testing.assert_close(alone, among)
    other = Episodes(episodes.support._replace(targets=-episodes.support.targets), episodes.query)
    assert not torch.allclose(last_outputs(learner, learned, other), last_outputs(learner, learned, episodes))


@pytest.mark.parametrize("kind", [kind for kind in SUPERVISED if kind != "random"])
def test_adaptation_leaves_meta_parameters_unchanged(kind: str) -> None:
    learner = image_learner(kind)
    learned = learner.initial(seeded(0))
    before = {name: tensor.clone() for name, tensor in learned.meta.items()}
    last_outputs(learner, learned, image_episodes())
    assert all(torch.equal(before[name], tensor) for name, tensor in learned.meta.items())
