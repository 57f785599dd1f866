"""Conditions for running batches: one thread at a time, a model that is ready, packed or padded."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from stx_core.inference.compiled import original
from stx_core.inference.encode import is_out_of_memory
from stx_core.inference.exclusive import lock_of
from stx_core.inference.walk import all_modules
from stx_core.models.module_row import is_transformer

# Compared by value: modules count and note things in attributes while they run.
_SCALARS = (int, float, str, bool, tuple, torch.dtype, torch.device)


@contextmanager
def one_at_a_time(model: nn.Sequential) -> Iterator[None]:
    """Within this context no other thread uses the backbones of a model; or it, where it has none.

    Models that share a backbone take turns, too.
    """
    first: Any = model[0]
    readers = first.readers() if hasattr(first, "readers") else [first]
    shared = [reader.backbone for reader in readers if is_transformer(reader)]
    with ExitStack() as stack:
        for lock in sorted(map(lock_of, shared or [model]), key=id):
            stack.enter_context(lock)
        yield


@contextmanager
def training_kept_on_failure(model: nn.Module) -> Iterator[None]:
    """Within this context a model computes; if that fails, modules that trained train again."""
    training = [module for module in all_modules(model) if module.training]
    try:
        yield
    except BaseException:
        for module in training:
            module.training = True
        raise


def get_ready(model: nn.Module, device: torch.device, present: torch.device) -> None:
    """Switch dropout off, and move the model unless it is there already."""
    if any([module.training for module in all_modules(model)]):
        model.eval()
    if device != present:
        model.to(device)


@dataclass(eq=False)
class Trials:
    """Results of trials to run a model packed, valid until something that decides it changes.

    Of a model that is copied or pickled nothing is remembered.
    """

    _results: dict[object, tuple[list[object], str | None]] = field(
        default_factory=dict, init=False
    )

    def __reduce__(self) -> tuple[type["Trials"], tuple[()]]:
        return Trials, ()

    def why_padded(
        self, model: nn.Module, key: object, attempt: Callable[[], str | None]
    ) -> str | None:
        """None where batches are packed, else the reason.

        Args:
            model: which one.
            key: what else decides it.
            attempt: finds out.
        """
        reason = _seen_by_users(model)
        if reason is not None:
            return reason
        structure = _structure(model)
        before, result = self._results.get(key, (None, None))
        same = before is not None and len(before) == len(structure)
        if before is not None and same and not all(map(is_, before, structure)):
            same = all(
                old is new or (type(old) is type(new) and isinstance(old, _SCALARS) and old == new)
                for old, new in zip(before, structure, strict=True)
            )
        if not same:
            try:
                result = attempt()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                return "the trial ran out of memory"  # the next one may not
            self._results[key] = _structure(model), result
        return result


def _seen_by_users(model: nn.Module) -> str | None:
    """A reason to run as Sentence Transformers does: somebody's code looks at what is computed."""
    if _has_any_global_hook():  # type: ignore[no-untyped-call]
        return "hooks of all modules see padded batches"
    for module in all_modules(model)[1:]:
        hooks = module._forward_hooks or module._forward_pre_hooks
        if hooks or module._backward_hooks or module._backward_pre_hooks:
            name = next(name for name, part in model.named_modules() if part is module)
            return f"hooks of {name} see padded batches"
    for module in all_modules(model):
        if getattr(module, "_compiled_call_impl", None) or original(module) is not module:
            return "it is compiled by torch.compile"
    return None


def _structure(model: nn.Module) -> list[object]:
    """All that can decide how a model may run and can be seen at once: no numbers of weights."""
    seen: list[object] = [*model._forward_hooks.values(), *model._forward_pre_hooks.values()]
    configs: dict[int, Any] = {}
    for module in all_modules(model):
        seen += (module, type(module))
        for parameter in module._parameters.values():
            if parameter is not None and not parameter.is_inference():
                seen.append(parameter._version)
        if module is not model:
            seen += vars(module).values()
            config = vars(module).get("config")
            configs[id(config)] = config
    for config in configs.values():
        seen += _settings(config)
    return seen


def _settings(config: Any) -> list[object]:  # noqa: ANN401  (of transformers)
    values = list(vars(config).values()) if hasattr(config, "sub_configs") else []
    for value in list(values):
        values += _settings(value)
        if isinstance(value, list | tuple):
            values += value
    return values
