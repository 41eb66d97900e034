"""A causal language model of ``transformers`` as a function of its parameters.

Legend: B lanes, T tokens of a segment, V vocabulary, H width, C capacity of the context.

The module is a skeleton on the meta device: it holds no weights, and is called with those that it is given
(``torch.func.functional_call``). Nothing of a user's model is patched or moved.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from dynlm.errors import UserError
from dynlm.models.hf import attention
from dynlm.models.hf.checkpointing import with_checkpointing
from dynlm.models.hf.options import HFOptions, num_positions
from dynlm.models.hf.window import Window
from dynlm.models.options import Targets
from dynlm.models.protocol import Output, SequenceModel, TensorKind
from dynlm.runtime.tree import concatenate_lanes, select_lanes
from dynlm.types import Params

_IN_A_LAYER = re.compile(r"(?P<stack>.+?)\.(?P<layer>\d+)\.(?P<rest>.+)")


def build(options: HFOptions, vocab_size: int) -> HFModel:
    """Return the model of ``options.architecture``. Raises UserError if that is no causal language model."""
    try:
        content = json.loads(options.architecture)
        with init_empty_weights(include_buffers=False):
            config = AutoConfig.for_model(**content)
            module = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, options.dtype))
        module.tie_weights()  # parameters that were replaced by empty ones are not tied
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"model.architecture is no causal language model ({error})", do="adopt the model again"
        ) from error
    model = HFModel.of(module, options)
    if model.vocab_size != vocab_size:
        raise UserError(f"model.architecture has {model.vocab_size} tokens, not {vocab_size}", do="adopt it again")
    return model


def skeleton_of(module: nn.Module) -> Any:
    """Return a copy of ``module`` without weights, in evaluation mode; buffers are copied."""
    without = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, without).eval()


@dataclass(frozen=True, eq=False)
class HFModel(SequenceModel):
    """``module`` is a skeleton, whose names of parameters are the model's."""

    options: HFOptions
    module: Any = field(repr=False)
    targets: Targets = field(default_factory=Targets)
    """What moves; with a rank, the module has factors."""
    pads_segments = True  # products of another number of tokens round otherwise

    @classmethod
    def of(cls, module: nn.Module, options: HFOptions) -> HFModel:
        """Return the model of a causal language model of ``transformers``, whose weights are left where they are.

        Raises UserError for more context than the model has positions, and for attention that it does not have.
        """
        skeleton, positions = skeleton_of(module), num_positions(module.config)
        if positions is not None and options.context > positions:
            what = f"model.context is {options.context}, and the model has {positions} positions"
            raise UserError(what, do="choose at most as many")
        skeleton.set_attn_implementation(attention.implementation(skeleton, options.attention))
        return cls(options, skeleton)

    @property
    def config(self) -> Any:
        """The configuration of the text model."""
        return self.module.config.get_text_config(decoder=True)

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        return int(self.config.vocab_size)

    @property
    def feature_size(self) -> int:
        return int(self.config.hidden_size)

    @functools.cached_property
    def _module_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    @functools.cached_property
    def _called(self) -> tuple[nn.Module, dict[str, str]]:
        """The module that is called, and its names of the module's parameters and buffers."""
        if not self.options.checkpointing:
            return self.module, {}
        called = with_checkpointing(self.module)
        held = [
            (called.named_parameters(), self.module.named_parameters()),
            (called.named_buffers(), self.module.named_buffers()),
        ]
        return called, {own: name for both in held for (name, _), (own, _) in zip(*both, strict=True)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in self._module_parameters.items()}

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.targets.label

    @property
    def factors_seed(self) -> int:  # type: ignore[override]
        return self.targets.seed if self.targets.rank else 0

    def with_targets(self, params: Params, targets: Targets) -> tuple[HFModel, Params]:
        if not targets.rank:
            return self, params
        from dynlm.models.hf.lora import add_lora

        model, factors = add_lora(self, targets)
        device = next(iter(params.values())).device
        return model, params | {name: factor.to(device) for name, factor in factors.items()}

    def dynamic_tensors(self, patterns: Sequence[str]) -> tuple[str, ...]:
        if not self.targets.rank:
            return super().dynamic_tensors(patterns)
        moving = tuple(f".lora_{factor}." for factor in self.targets.factors)
        return tuple(name for name in self._module_parameters if any(each in name for each in moving))

    @functools.cached_property
    def _stacks(self) -> dict[str, int]:
        """The number of layers of each list of layers, by its dotted name."""
        found: dict[str, int] = {}
        for name in self._module_parameters:
            if layer := _IN_A_LAYER.fullmatch(name):
                found[layer["stack"]] = max(found.get(layer["stack"], 0), int(layer["layer"]) + 1)
        return found

    def tensor_kinds(self, names: Iterable[str]) -> dict[str, TensorKind]:
        """Return each tensor's name within its layer, such as ``self_attn.q_proj``, and the layer's depth.

        Experts of a layer are one kind. Outside of layers the kind is the name without the model's prefix.
        """
        kinds = {}
        for name in names:
            rest, depth = name.removeprefix(f"{self.module.base_model_prefix}."), 0.0
            if layer := _IN_A_LAYER.fullmatch(name):
                rest, last = layer["rest"], self._stacks[layer["stack"]] - 1
                depth = 2 * int(layer["layer"]) / last - 1 if last else 0.0
            kind = ".".join(part for part in rest.split(".") if not part.isdigit())
            kinds[name] = TensorKind(kind.removesuffix(".weight"), depth)
        return kinds

    def init_params(self, generator: torch.Generator, dtype: torch.dtype | None = None) -> Params:
        raise UserError("a pretrained model has its weights", do="load them with `dynlm adopt`")

    def init_state(self, lanes: int, like: Tensor) -> Window:
        sizes = [_cache_size(layer) for layer in self.config.per_layer_config]
        dtype = self.module.dtype if self.module.dtype.itemsize == 2 else like.dtype
        return Window.empty(lanes, self.options.context, sizes, like.new_empty(0, dtype=dtype))

    def reset_state(self, state: Window, starts_B: Tensor, like: Tensor) -> Window:
        """Empty the lanes of ``starts_B`` (bool): what their positions hold is masked, not cleared."""
        keep_B = ~starts_B
        return state._replace(valid_B=state.valid_B * keep_B, age_B=state.age_B * keep_B)

    def without_last(self, state: Window, count: int) -> Window:
        return state.without_last(count)

    def forward(self, params: Params, state: Window, inputs_BT: Tensor) -> Output:
        length, options = inputs_BT.shape[1], self.options
        if length > options.context:
            raise UserError(
                f"memory.segment is {length}, more than model.context {options.context}", do="choose a shorter one"
            )
        weights = self.weights(params, inputs_BT.device)
        state = self._make_room(weights, state, length)
        logits_BTV, features_BTH, new = self._call(weights, state, inputs_BT)
        if logits_BTV.itemsize == 2:
            logits_BTV, features_BTH = logits_BTV.float(), features_BTH.float()
        return Output(logits_BTV, features_BTH, state.append(inputs_BT, new))

    def weights(self, params: Params, device: torch.device) -> Params:
        """Return parameters with the module's buffers; float32 ones of a half-precision model in its own type."""
        weights = {name: buffer.to(device) for name, buffer in self.module.named_buffers()}
        for name, tensor in params.items():
            dtype = self._module_parameters[name].dtype
            weights[name] = tensor.to(dtype) if dtype.itemsize == 2 else tensor
        return weights

    def _make_room(self, weights: Params, state: Window, length: int) -> Window:
        """Compute keys and values anew in the lanes whose context is full, or whose keys and values are too old."""
        context, stride, refresh = self.options.context, self.options.stride, self.options.refresh
        full_B = state.valid_B + length > context
        old_B = (state.age_B + length > refresh) & (state.valid_B > 0) if refresh else torch.zeros_like(full_B)
        if not bool((full_B | old_B).any()):
            return state
        lanes = []
        for lane, (full, old) in enumerate(zip(full_B.tolist(), old_B.tolist(), strict=True)):
            one = select_lanes(state, slice(lane, lane + 1))
            lanes.append(
                self._recompute(weights, one, min(context - stride, context - length) if full else None)
                if full or old
                else one
            )
        joined: Window = concatenate_lanes(lanes)
        return joined

    @torch.no_grad()
    def _recompute(self, weights: Params, lane: Window, most: int | None) -> Window:
        """Return one lane's window with its last tokens (at most ``most``), read again by ``weights``."""
        count = int(lane.valid_B) if most is None else min(int(lane.valid_B), most)
        tokens_1T = lane.tokens_BC[:, lane.tokens_BC.shape[1] - count :]
        empty = lane._replace(valid_B=torch.zeros_like(lane.valid_B), age_B=torch.zeros_like(lane.age_B))
        if count == 0:
            return empty
        again = empty.append(tokens_1T, self._call(weights, empty, tokens_1T, logits_to_keep=1)[2])
        return again._replace(age_B=empty.age_B)

    def _call(
        self, weights: Params, state: Window, inputs_BT: Tensor, **more: Any
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Return logits, features, and keys and values of the tokens (B, G, T, D) of each layer."""
        length, past = inputs_BT.shape[1], int(state.valid_B.max())
        # Layers of a sliding window keep no more than that of a segment, which may end with padding.
        config = self.config if length < (getattr(self.config, "sliding_window", None) or length + 1) else None
        cache = DynamicCache(state.last(past), config=config) if past else DynamicCache(config=config)
        steps_T = torch.arange(length, device=inputs_BT.device)
        # Lanes with fewer tokens are padded at their start.
        mask = None
        if past and bool((state.valid_B < past).any()):
            places = torch.arange(past + length, device=inputs_BT.device)
            mask = (places >= past - state.valid_B[:, None]).long()
        called, names = self._called
        output = torch.func.functional_call(
            called,
            {names.get(name, name): tensor for name, tensor in weights.items()},
            (inputs_BT,),
            {
                "attention_mask": mask,
                "position_ids": state.valid_B[:, None] + steps_T,
                "cache": cache,
                "use_cache": True,
                "output_hidden_states": True,
                **more,
            },
        )
        new = [(layer.keys[:, :, -length:], layer.values[:, :, -length:]) for layer in output.cache.layers]
        return output.logits, output.hidden_states[-1], new


def _cache_size(layer: Any) -> tuple[int, int]:
    """Return the key-value heads of a layer and their width."""
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    width = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return int(heads), int(width)
