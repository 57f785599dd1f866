"""What `kustomize build` gives, for the few features that infra/k8s uses.

So the tests need no kubectl; where there is one, they compare. Unknown keys are refused.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

Document = dict[str, Any]

LOCAL = "config.kubernetes.io/local-config"
CLUSTER_SCOPED = {"Namespace", "ClusterQueue", "ResourceFlavor"}


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Selector(Part):
    kind: str
    name: str

    def matches(self, document: Document) -> bool:
        return (document["kind"], document["metadata"]["name"]) == (self.kind, self.name)


class Patch(Part):
    target: Selector
    patch: str | None = None
    path: str | None = None


class Source(Selector):
    fieldPath: str


class Create(Part):
    create: Literal[True]


class Target(Part):
    select: Selector
    fieldPaths: list[str]
    options: Create


class Replacement(Part):
    source: Source
    targets: list[Target]


class GeneratorOptions(Part):
    disableNameSuffixHash: Literal[True]


class ConfigMapGenerator(Part):
    name: str
    files: list[str]
    behavior: Literal["replace"] | None = None
    options: GeneratorOptions | None = None


class Image(Part):
    name: str
    newName: str
    newTag: str


class Kustomization(Part):
    apiVersion: Literal["kustomize.config.k8s.io/v1beta1", "kustomize.config.k8s.io/v1alpha1"]
    kind: Literal["Kustomization", "Component"]
    namespace: str | None = None
    resources: list[str] = Field(default=[])
    components: list[str] = Field(default=[])
    configMapGenerator: list[ConfigMapGenerator] = Field(default=[])
    generatorOptions: GeneratorOptions | None = None
    patches: list[Patch] = Field(default=[])
    images: list[Image] = Field(default=[])
    replacements: list[Replacement] = Field(default=[])


class Operation(Part):
    op: Literal["add", "replace", "remove"]
    path: str
    value: Any = None


def documents_of(text: str) -> list[Any]:
    """What a YAML file holds, by the fast parser."""
    return list(yaml.load_all(text, yaml.CSafeLoader))


def build(folder: Path) -> list[Document]:
    """The objects that `kubectl apply -k` would send."""
    built = []
    for document in _accumulate(folder, []):
        annotations = document["metadata"].get("annotations", {})
        if not annotations:
            document["metadata"].pop("annotations", None)
        if LOCAL not in annotations:
            built.append(document)
    return built


def _accumulate(folder: Path, documents: list[Document]) -> list[Document]:
    """The order of kustomize: what is included, then generators, patches, names, replacements."""
    kustomization = Kustomization(**documents_of((folder / "kustomization.yaml").read_text())[0])
    for resource in kustomization.resources:
        path = (folder / resource).resolve()
        documents += _accumulate(path, []) if path.is_dir() else documents_of(path.read_text())
    for component in kustomization.components:
        _accumulate((folder / component).resolve(), documents)
    for generator in kustomization.configMapGenerator:
        _generate(documents, generator, folder, kustomization.generatorOptions)
    for patch in kustomization.patches:
        _patch(documents, patch, folder)
    if kustomization.namespace:
        for document in documents:
            _set_namespace(document, kustomization.namespace)
    for image in kustomization.images:
        for container in _containers(documents):
            if container["image"] == image.name:
                container["image"] = f"{image.newName}:{image.newTag}"
    for replacement in kustomization.replacements:
        _replace(documents, replacement)
    return documents


def _generate(
    documents: list[Document],
    generator: ConfigMapGenerator,
    folder: Path,
    options: GeneratorOptions | None,
) -> None:
    assert generator.options or options, f"{folder}: nothing knows a ConfigMap's hashed name"
    data = {Path(file).name: (folder / file).read_text() for file in generator.files}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator.name}}
    same = [each for each in documents if Selector(**_identity(made)).matches(each)]
    assert len(same) == (generator.behavior == "replace"), f"{folder}: {generator.name}"
    if same:
        same[0]["data"] = data
    else:
        documents.append(made | {"data": data})


def _identity(document: Document) -> dict[str, str]:
    return {"kind": document["kind"], "name": document["metadata"]["name"]}


def _one(documents: list[Document], selector: Selector) -> Document:
    (found,) = (each for each in documents if selector.matches(each))
    return found


def _patch(documents: list[Document], patch: Patch, folder: Path) -> None:
    assert (patch.patch is None) != (patch.path is None), f"{folder}: patch or path"
    text = patch.patch if patch.path is None else (folder / patch.path).read_text()
    for operation in (Operation(**each) for each in documents_of(text)[0]):
        _apply(_one(documents, patch.target), operation)


def _apply(document: Any, operation: Operation) -> None:
    """RFC 6902."""
    *parents, last = (
        part.replace("~1", "/").replace("~0", "~") for part in operation.path.split("/")[1:]
    )
    for part in parents:
        document = document[int(part)] if isinstance(document, list) else document[part]
    key = int(last) if isinstance(document, list) and last != "-" else last
    if operation.op == "remove":
        del document[key]
        return
    value = copy.deepcopy(operation.value)
    if operation.op == "replace":
        document[key]  # noqa: B018  it must be there
    if key == "-":
        document.append(value)
    else:
        document[key] = value


def _set_namespace(document: Document, namespace: str) -> None:
    if document["kind"] == "Namespace":
        document["metadata"]["name"] = namespace
    elif document["kind"] not in CLUSTER_SCOPED:
        document["metadata"]["namespace"] = namespace
    for subject in document.get("subjects", []):
        subject["namespace"] = namespace


def _containers(value: Any) -> Iterator[Document]:
    for each in walk(value, lambda key: key in ("containers", "initContainers")):
        yield from each


def walk(value: Any, wanted: Callable[[str], bool]) -> Iterator[Any]:
    """The values of all keys that are wanted, at any depth."""
    if isinstance(value, list):
        for each in value:
            yield from walk(each, wanted)
    elif isinstance(value, dict):
        for key, each in value.items():
            if wanted(key):
                yield each
            yield from walk(each, wanted)


def _replace(documents: list[Document], replacement: Replacement) -> None:
    source = _one(documents, replacement.source)
    for name in replacement.source.fieldPath.split("."):
        source = source[name]
    for target in replacement.targets:
        for path in target.fieldPaths:
            *parents, last = path.split(".")
            place = _one(documents, target.select)
            for name in parents:
                place = place[name]
            place[last] = copy.deepcopy(source)
