"""Router: one path of modules for queries, another for documents."""

import ast
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, get_type_hints

import numpy as np
from torch import nn

from stx_core.errors import ModelError
from stx_core.inference.tokens import Pair, Tokens
from stx_core.models.folder import JsonObject, inside, read_json, reading, write_json
from stx_core.models.modules import module_class, saved_type
from stx_core.models.modules.module import Features, InputModule, LoadOptions, Module
from stx_core.models.modules.own_readers import own_reader, read_with
from stx_core.models.older_names import given
from stx_core.models.settings import check_settings

logger = logging.getLogger(__name__)

Route = tuple[str | None, str | tuple[str, ...] | None]
"""(task, modality) that a route is for; None for any."""

_MODALITY = "text"


class RouterParameters(TypedDict, total=False):
    """Settings of the router itself."""

    default_route: str | None
    allow_empty_key: bool
    route_mappings: Mapping[str, str] | None


class RouterFile(TypedDict, total=False):
    """Contents of the config file: type of each module, modules of each route."""

    types: Mapping[str, str]
    structure: Mapping[str, list[str]]
    parameters: RouterParameters | None


class Router(InputModule):
    """Sends inputs through the modules of one route, chosen by task.

    As the first module of a model it also reads texts, with the first module of the route.

    Args:
        sub_modules: route name -> its modules, in order. Routes may share modules.
        default_route: route for inputs without a task.
        allow_empty_key: use the first route when there is no default route.
        route_mappings: (task, modality) -> route name.

    Raises:
        ValueError: there is no route, or a default or mapping names one that does not exist.
    """

    config_file_name: ClassVar[str] = "router_config.json"
    takes_processing: ClassVar[bool] = True
    forward_kwargs: ClassVar[frozenset[str]] = frozenset({"task", "modality"})

    def __init__(
        self,
        sub_modules: Mapping[str, Sequence[nn.Module]],
        default_route: str | None = None,
        allow_empty_key: bool = True,
        route_mappings: Mapping[Route, str] | None = None,
    ) -> None:
        super().__init__()
        named = {default_route} - {None} | set((route_mappings or {}).values())
        if not sub_modules or not named <= set(sub_modules):
            raise ValueError(
                f"routes are {list(sub_modules)}, but {sorted(map(str, named))} are named"
            )
        self.sub_modules = nn.ModuleDict(
            {route: nn.Sequential(*modules) for route, modules in sub_modules.items()}
        )
        self.allow_empty_key = allow_empty_key
        self._default_route = default_route
        self.route_mappings = {
            (task, tuple(sorted(kind)) if isinstance(kind, tuple) else kind): route
            for (task, kind), route in (route_mappings or {}).items()
        }

    @property
    def default_route(self) -> str | None:
        """Route for inputs without a task; the first one where none is set and that is allowed."""
        if self._default_route is None and self.allow_empty_key:
            return next(iter(self.sub_modules))
        return self._default_route

    @default_route.setter
    def default_route(self, value: str | None) -> None:
        if value is not None and value not in self.sub_modules:
            raise ValueError(
                f"default_route {value!r} is no route; routes are {[*self.sub_modules]}"
            )
        self._default_route = value

    @classmethod
    def for_query_document(
        cls,
        query_modules: Sequence[nn.Module],
        document_modules: Sequence[nn.Module],
        default_route: str | None = "document",
        allow_empty_key: bool = True,
    ) -> Self:
        """A router with the routes "query" and "document"."""
        routes = {"query": query_modules, "document": document_modules}
        return cls(routes, default_route, allow_empty_key)

    # --- Files -----------------------------------------------------------------------------------

    @classmethod
    def from_folder(cls, folder: Path, options: LoadOptions) -> Self:
        """Load ``router_config.json`` (of an Asym: ``config.json``) and the modules it lists."""
        path = folder / cls.config_file_name
        path = path if path.is_file() else folder / "config.json"
        config = read_json(path)
        if not all(isinstance(config.get(key), dict) for key in ("types", "structure")):
            raise ModelError(f"{path}: a router needs types and structure")
        check_settings(config, get_type_hints(RouterFile), path)
        settings = dict(config.get("parameters") or {})
        hints = get_type_hints(RouterParameters)
        check_settings(settings, hints, f"{path}: the routes do not fit together")
        modules = {}
        for name, type_string in config["types"].items():
            place = inside(folder, name, options.root)
            if place.resolve() == folder.resolve():
                raise ModelError(f"{path}: module {name!r} would be the router itself")
            modules[name] = module_class(type_string, str(path)).from_folder(place, options)
        routes: dict[Route, str] = {}
        for key, route in (settings.pop("route_mappings", None) or {}).items():
            try:  # a key such as "('query', None)"; literals only, nothing is evaluated
                task, modality = ast.literal_eval(key)
            except (ValueError, SyntaxError, TypeError) as error:
                raise ModelError(
                    f"{path}: route mapping {key!r} is not a pair (task, modality)"
                ) from error
            routes[task, modality] = route
        with reading(path, "the routes do not fit together"):
            return cls(
                {
                    route: [modules[name] for name in names]
                    for route, names in config["structure"].items()
                },
                route_mappings=routes,
                **settings,
            )

    def get_config_dict(self) -> JsonObject:
        """Settings as they are saved, under ``parameters``."""
        return {
            "default_route": self.default_route,
            "allow_empty_key": self.allow_empty_key,
            "route_mappings": {str(key): route for key, route in self.route_mappings.items()},
        }

    def write_files(self, folder: Path) -> None:
        """Write each module once, into ``<route>_<position>_<class>``, and the routes."""
        names: dict[int, str] = {}
        types: dict[str, str] = {}
        structure: dict[str, list[str]] = {}
        for route, modules in self._routes():
            structure[route] = []
            for position, module in enumerate(modules):
                if id(module) not in names:
                    class_name = saved_type(module).rpartition(".")[2]
                    names[id(module)] = name = f"{route}_{position}_{class_name}"
                    types[name] = saved_type(module)
                    (folder / name).mkdir(exist_ok=True)
                    module.save(folder / name)
                structure[route].append(names[id(module)])
        config: JsonObject = {
            "types": types,
            "structure": structure,
            "parameters": self.get_config_dict(),
        }
        write_json(folder / self.config_file_name, config)

    def _routes(self) -> list[tuple[str, list[Module]]]:
        return [
            (route, [module for module in modules if isinstance(module, Module)])
            for route, modules in self.sub_modules.items()
            if isinstance(modules, nn.Sequential)
        ]

    # --- Routes ----------------------------------------------------------------------------------

    def route_for(self, task: str | None) -> str:
        """Name of the route for a task.

        Mappings come first, the more exact before the less exact, then a route named like the
        task, then one named like the modality (text), then the default.

        Raises:
            ValueError: the task has no route, or there is neither task nor default route.
        """
        for key in ((task, _MODALITY), (task, None), (None, _MODALITY), (None, None)):
            if key in self.route_mappings:
                return self.route_mappings[key]
        for name in (task, _MODALITY):
            if name is not None and name in self.sub_modules:
                return name
        if task is not None or self.default_route is None:
            raise ValueError(f"no route for task {task!r}; there are {list(self.sub_modules)}")
        return self.default_route

    def _reader(self, task: str | None) -> InputModule:
        route = self.sub_modules[self.route_for(task)]
        first = next(route.children())
        if not isinstance(first, InputModule):
            raise ModelError(f"{type(first).__name__} is first in its route, but reads no texts")
        return first

    # --- Texts to features -----------------------------------------------------------------------

    def first_modules(self) -> list[nn.Module]:
        """The first module of each route."""
        return [next(modules.children()) for modules in self.sub_modules.values()]

    def readers(self) -> list[InputModule]:
        """The first module of each route, where that reads texts."""
        return [first for first in self.first_modules() if isinstance(first, InputModule)]

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401
        """Tokenizer of the first route that has one."""
        tokenizers = (getattr(reader, "tokenizer", None) for reader in self.readers())
        return next((tokenizer for tokenizer in tokenizers if tokenizer is not None), None)

    @property
    def max_seq_length(self) -> int | None:
        """The largest limit of the routes; None when no route has one."""
        limits = [reader.max_seq_length for reader in self.readers()]
        return max((limit for limit in limits if limit is not None), default=None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        for reader in self.readers():
            reader.max_seq_length = value

    def to_tokens(
        self,
        inputs: Sequence[str] | Sequence[Pair],
        *,
        prompt: str = "",
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """Ragged tokens of N texts, made by the route of the task."""
        reader = self._reader(task)
        own = reader.processing(processing_kwargs)
        tokens = reader.to_tokens(inputs, prompt=prompt, task=task, **own)
        return replace(tokens, task=task)

    def preprocess(
        self,
        inputs: Sequence[str] | Sequence[Pair],
        prompt: str | None = None,
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401  (of the route's first module)
    ) -> Features:
        """Tokenise N inputs into one padded batch, by the first module of the task's route."""
        first = next(self.sub_modules[self.route_for(task)].children())
        reader = own_reader(first)
        if reader is None:
            return super().preprocess(inputs, prompt, task, processing_kwargs=processing_kwargs)
        features = dict(
            read_with(
                reader,
                inputs,
                prompt,
                options=options | given(task=task, processing_kwargs=processing_kwargs),
            )
        )
        return features | {"task": task}

    def collate(self, tokens: Tokens, rows: np.ndarray) -> Features:
        """Features of one batch, as the route of the tokens' task wants them."""
        return self._reader(tokens.task).collate(tokens, rows) | {"task": tokens.task}

    # --- Forward ---------------------------------------------------------------------------------

    def get_embedding_dimension(self) -> int | None:
        """Width of the first route that knows its own, or None if it is not known."""
        widths: dict[str, int] = {}
        for route, modules in self._routes():
            sized = [module for module in modules if hasattr(module, "get_embedding_dimension")]
            width = sized[-1].get_embedding_dimension() if sized else None
            if width is not None:
                widths[route] = int(width)
        if len(set(widths.values())) > 1:
            logger.warning("the routes give different widths %s: taken is the first", widths)
        return next(iter(widths.values()), None)

    def forward(
        self,
        features: Features,
        task: str | None = None,
        modality: str | tuple[str, ...] | None = None,
        **arguments: Any,  # noqa: ANN401
    ) -> Features:
        """Run the route of `task`, or of ``task`` in the features, and give on the arguments."""
        task = features.get("task") if task is None else task
        arguments |= {"task": task, "modality": modality}
        for module in self.sub_modules[self.route_for(task)].children():
            accepted = getattr(module, "forward_kwargs", ())
            own = {key: value for key, value in arguments.items() if key in accepted}
            features = module(features, **own)
        return features


Asym = Router
"""Older name."""
