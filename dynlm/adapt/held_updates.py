"""Rules whose updates of the softmax layer are held outside the weights, as the options of the memory have them."""

from __future__ import annotations

from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.base import Rule
from dynlm.adapt.rules.elementwise import ElementwiseRule
from dynlm.adapt.rules.merged import MergedRule
from dynlm.adapt.rules.used_rows import UsedRowsRule
from dynlm.errors import UserError
from dynlm.models.protocol import SequenceModel


def holding_rule(rule: Rule, model: SequenceModel, memory: MemoryOptions) -> Rule:
    """Return ``rule`` with updates of the softmax layer held outside the weights, as ``memory`` has it.

    Raises UserError for a model or a rule that cannot hold updates.
    """
    options = {"merge_every": memory.merge_every > 1, "used_rows": memory.used_rows > 0}
    chosen = [f"memory.{option}" for option, is_chosen in options.items() if is_chosen]
    if not chosen or not rule.learns:
        return rule
    option, do = chosen[0], "leave it out"
    if len(chosen) > 1:
        raise UserError(" and ".join(chosen) + " exclude each other", do="choose one of them")
    if (matrix := model.factored_tensor) is None:
        raise UserError(f"{option} is for models with an output layer of their own engine (the LSTM)", do=do)
    if memory.precision != "float32":
        raise UserError(f"{option} does not go with memory.precision {memory.precision!r}", do=do)
    if not isinstance(rule, ElementwiseRule) or not can_hold(rule):
        raise UserError(f"{option} does not go with memory.rule {memory.rule!r}", do=do)
    if matrix not in rule.tensors:
        return rule
    if memory.merge_every > 1:
        return MergedRule(rule, matrix, memory.merge_every, memory.segment)
    if len(rule.tensors) == 1:
        raise UserError(f"{option} needs another tensor that moves beside {matrix!r}", do="add one to memory.targets")
    if memory.used_rows < 2 * memory.segment:
        what = f"memory.used_rows is {memory.used_rows}, and a segment's inputs and targets may be {2 * memory.segment}"
        raise UserError(what, do="choose more")
    height, width = model.shapes()[matrix]
    return UsedRowsRule(rule, matrix, (height, width), memory.used_rows)


def can_hold(rule: ElementwiseRule) -> bool:
    """Whether a rule's steps depend on gradients and constants alone, so that they can be put off or left out."""
    return not (rule.gates or rule.slots or any(rule.boundary_reset.values()) or rule.replay_rate)
