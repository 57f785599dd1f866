"""Backbones of transformers on packed batches: what beside their attention looks at places.

Nothing here knows for which backbones it is right: `stx_core.inference.trial` runs each both ways.

B inputs, T tokens of all of them, H width.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from stx_core.errors import ModelError
from stx_core.inference.attention import attend, packed_attention
from stx_core.inference.packing import Layout

Read = Callable[[torch.Tensor], torch.Tensor]
"""Takes the part that is needed out of what a backbone gave, (1, T, H) or (1, B, K) or (B, K)."""


def position_ids(model: Any, input_ids: torch.Tensor, layout: Layout) -> torch.Tensor:  # noqa: ANN401
    """(1, T) int64, where each token of (1, T) input ids is in its input.

    RoBERTa and its relatives count from padding_idx + 1, and do not count that id.
    """
    tables = (getattr(module, "position_embeddings", None) for module in model.modules())
    table = next((table for table in tables if isinstance(table, nn.Embedding)), None)
    if table is None or table.padding_idx is None:
        return layout.positions[None]
    counted = (input_ids[0] != table.padding_idx).long()
    total = counted.cumsum(0)
    starts = torch.arange(layout.size, device=total.device) - layout.positions
    before = (total - counted)[starts]
    return ((total - before) * counted + table.padding_idx)[None]


@contextmanager
def as_packed(model: Any, layout: Layout, task: str) -> Iterator[Read]:  # noqa: ANN401
    """Within this context a backbone reads one row of tokens as the inputs of a layout.

    Args:
        model: the backbone, which no other thread may use meanwhile.
        layout: of the batch.
        task: what it was loaded for, see `stx_core.models.modules.backbone.TASKS`.

    Raises:
        ModelError: its masked-LM head is not a plain linear layer.
    """
    with ExitStack() as stack:
        stack.enter_context(packed_attention(model, layout))
        if hasattr(getattr(model.base_model, "encoder", None), "relative_attention_bias"):
            _pack_mpnet(model.base_model.encoder, layout, stack)
        pooler = getattr(model.base_model, "pooler", None)
        if pooler is not None:

            def first_tokens(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
                if inputs[0].ndim != 3:
                    return inputs  # ALBERT has picked it already, wrongly: it cannot be used
                return (inputs[0][0, layout.first, None], *inputs[1:])

            # Poolers read the first token of each input: (1, T, H) to (B, 1, H).
            stack.callback(pooler.register_forward_pre_hook(first_tokens).remove)
        if task == "sequence-classification":
            yield _classified(model, layout, stack, has_pooler=pooler is not None)
        elif task == "fill-mask":
            # The vocabulary is pooled in parts, from what would go into this layer.
            head = model.get_output_embeddings()
            if type(head) is not nn.Linear:
                raise ModelError(f"the masked-LM head is a {type(head).__name__}")
            _replace(head, "forward", lambda states: states, stack)
            yield _tokens
        else:
            yield _tokens


def _tokens(value: torch.Tensor) -> torch.Tensor:
    """(1, T, H) or (1, B, K) without the 1; what a pooler gave, (B, H), as it is."""
    return value[0] if value.ndim == 3 else value


def _classified(
    model: Any,  # noqa: ANN401
    layout: Layout,
    stack: ExitStack,
    *,
    has_pooler: bool,
) -> Read:
    if hasattr(model, "score"):
        # A decoder: a score per token, of which that of each input's last one counts.
        scores: list[torch.Tensor] = []
        hook = model.score.register_forward_hook(lambda _, __, output: scores.append(output))
        stack.callback(hook.remove)
        return lambda _: scores[-1][0, layout.last]
    if not has_pooler:

        def first_of_output(_: nn.Module, __: object, output: Any) -> Any:  # noqa: ANN401
            states = output[0][0, layout.first, None]
            if isinstance(output, tuple):
                return (states, *output[1:])
            output["last_hidden_state"] = states
            return output

        # The head reads the first token of each input.
        stack.callback(model.base_model.register_forward_hook(first_of_output).remove)
    return lambda value: value


def _replace(thing: Any, name: str, value: object, stack: ExitStack) -> None:  # noqa: ANN401
    """Give an object another attribute until the stack ends."""
    own = vars(thing)
    back = (
        partial(own.__setitem__, name, own[name]) if name in own else partial(own.pop, name, None)
    )
    stack.callback(back)
    own[name] = value


def _pack_mpnet(encoder: Any, layout: Layout, stack: ExitStack) -> None:  # noqa: ANN401
    """MPNet does not ask the attention interface: its attention adds a bias by distance."""
    like = encoder.relative_attention_bias.weight.new_zeros((1, layout.longest, 1))
    bias = type(encoder).compute_position_bias(encoder, like)[0]
    bias = bias.float().mT.contiguous().mT  # as the native kernel reads it, once for all layers
    _replace(encoder, "compute_position_bias", lambda _: bias, stack)
    for layer in encoder.layer:
        attention = layer.attention.attn
        _replace(attention, "forward", partial(_mpnet_attention, attention), stack)


def _mpnet_attention(
    attention: Any,  # noqa: ANN401
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor]:
    shape = (-1, attention.num_attention_heads, attention.attention_head_size)
    layers = (attention.q, attention.k, attention.v)
    query, key, value = (layer(hidden_states)[0].view(shape) for layer in layers)
    scale = 1 / math.sqrt(attention.attention_head_size)
    attended = attend(query, key, value, scale=scale, bias=position_bias)
    return (attention.o(attended.flatten(1)[None]),)
