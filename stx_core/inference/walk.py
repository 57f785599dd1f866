"""All parts of a model, quickly: several looks at them belong to each call."""

from torch import nn


def all_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of `model.modules()`, itself first, in an order of its own.

    torch walks by nested generators, which takes longer than all else that is asked of a model.
    """
    modules, seen = [model], {id(model)}
    for module in modules:
        for child in module._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                modules.append(child)
    return modules
