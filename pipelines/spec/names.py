"""Values of specs that name a thing of a registry: of stx itself, or of a plug-in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from stx_core.plugins import Registry


@dataclass(frozen=True)
class NameOf:
    """Says of a string that it is a name of a registry, as ``Literal`` says of a closed list.

    Attributes:
        registry: its names are looked up when a spec is read.
        first: further names, before those.
    """

    registry: Registry[Any]
    first: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> Mapping[str, Any]:
        return handler(schema) | {"enum": self._names()}

    def _names(self) -> list[str]:
        return [*self.first, *self.registry]

    def _checked(self, name: str) -> str:
        if name not in self._names():
            *names, last = map(repr, self._names())
            raise ValueError(f"Input should be {', '.join(names)} or {last}")
        return name
