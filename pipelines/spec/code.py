"""Code that a spec names: who calls says whether it runs, as the spec may be somebody else's."""

from collections.abc import Iterator

from pydantic import BaseModel

from stx.pipelines.spec.parts import Inputs
from stx_core.errors import SpecError


def refuse_code(spec: BaseModel, source: str, how: str = "--allow-code") -> None:
    """Check that a spec whose code nobody allowed names none.

    Args:
        spec: of any job.
        source: names it in errors.
        how: it is allowed.

    Raises:
        SpecError: it does.
    """
    for key, place in _maps(spec):
        raise SpecError(
            f"{source}: {key}.map: a spec may run code, {place}, only with {how}; add it if you "
            "trust this spec and that code, or take the key out"
        )


def _maps(part: BaseModel) -> Iterator[tuple[str, str]]:
    """Keys of inputs with a map, and what it names."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Inputs) and value.map is not None:
            yield name, value.map
        elif isinstance(value, BaseModel):
            yield from ((f"{name}.{key}", place) for key, place in _maps(value))
