"""From options to the task distribution and the learner that they name."""

from __future__ import annotations

from dynlm.fewshot.learners.learner import Learner
from dynlm.fewshot.learners.maml import Maml, RandomStart
from dynlm.fewshot.learners.nearest_neighbour import NearestPixels
from dynlm.fewshot.learners.prototypes import Prototypes
from dynlm.fewshot.learners.recurrent import LstmOptimiser, LstmReader
from dynlm.fewshot.learners.reptile import Reptile
from dynlm.fewshot.nets import ConvNet, Net, Perceptron
from dynlm.fewshot.options import FewShotConfig, TaskConfig
from dynlm.fewshot.tasks.classification import ImageTasks
from dynlm.fewshot.tasks.episodes import Tasks
from dynlm.fewshot.tasks.glyphs import open_glyphs
from dynlm.fewshot.tasks.image_folder import open_imagefolder
from dynlm.fewshot.tasks.omniglot import open_omniglot
from dynlm.fewshot.tasks.regression import CURVES

_OPENERS = {"glyphs": open_glyphs, "omniglot": open_omniglot, "imagefolder": open_imagefolder}


def open_tasks(config: TaskConfig) -> Tasks:
    """The tasks that ``config.source`` names. Raises UserError where their images cannot be read."""
    if config.is_regression:
        return CURVES[config.source]
    return ImageTasks(_OPENERS[config.source](config), config)


def open_learner(config: FewShotConfig) -> Learner:
    """The learner that ``config.learner.kind`` names, with a network that fits the tasks."""
    task, learner = config.task, config.learner
    if task.is_regression:
        outputs = 1
        net: Net = Perceptron((1, *learner.hidden, outputs), learner.activation, tuple(learner.gains or ()))
    else:
        outputs = task.ways
        headless = learner.kind in ("prototypes", "lstm-reader")
        channels = 3 if task.colour else 1
        net = ConvNet(
            task.size,
            channels,
            learner.filters,
            learner.layers,
            learner.pooling,
            learner.readout,
            None if headless else outputs,
        )
    classifies = not task.is_regression
    if learner.kind == "pixels":
        return NearestPixels()
    if learner.kind == "prototypes":
        assert isinstance(net, ConvNet)
        return Prototypes(learner, net)
    if learner.kind == "lstm-reader":
        return LstmReader(learner, net if isinstance(net, ConvNet) else None, outputs, classifies)
    kinds = {"reptile": Reptile, "random": RandomStart, "lstm-optimiser": LstmOptimiser}
    return kinds.get(learner.kind, Maml)(learner, net, classifies)
