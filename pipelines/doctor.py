"""Checks of what a run needs: the machine, its libraries, a model, a store, a cluster."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal, cast

import psutil

from stx.pipelines.exports.forms import FORMS
from stx.pipelines.jobs import JOBS
from stx.pipelines.planning.pool import available_cores
from stx_core.errors import StxError
from stx_core.inference import kernel_library
from stx_core.machine import cpu_class, cpu_name
from stx_core.models.module_types import MODULE_TYPES
from stx_core.search.first_passes import FIRST_PASSES
from stx_core.store.corpus.formats import READERS
from stx_core.store.files.create import probe
from stx_core.store.files.filesystem import file_info, read_bytes
from stx_core.store.files.urls import LOCAL, join, redact, scheme

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "transformers", "tokenizers", "ray", "pyarrow", "pydantic")
_LEAST_DISK_BYTES = 1 << 30
_LEAST_SHARED_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Check:
    """What one check came to.

    Attributes:
        name: of the thing that was looked at.
        state: ``ok``; ``note``, a run works, but not as well as it could; ``fail``, it would not.
        text: one line: what is there, and, unless it is ok, what to do.
    """

    name: str
    state: Literal["ok", "note", "fail"]
    text: str


def checks(
    output: str | None = None, model: str | None = None, kind: str = "dense"
) -> Iterator[Check]:
    """Look at everything in turn; a check is given as soon as it is done.

    Args:
        output: dataset whose store is probed, which leaves one small object there; None: not.
        model: folder or hub name to load; None: not.
        kind: of the model: dense, sparse or reranker.
    """
    named: list[tuple[str, Callable[[], Check]]] = [
        ("machine", _machine),
        ("disk", _disk),
        ("packages", _packages),
        ("plug-ins", _plugins),
        ("kernels", _kernels),
        ("GPU", _gpu),
        ("Ray", _cluster),
    ]
    if output is not None:
        named.insert(2, ("store", lambda: _store(output)))
    if model is not None:
        named.append(("model", lambda: _model(model, kind)))
    for name, check in named:
        try:
            yield check()
        except (StxError, ImportError, OSError) as error:
            yield Check(name, "fail", redact(str(error)))


def _machine() -> Check:
    memory = psutil.virtual_memory()
    text = (
        f"{available_cores()} cores of {cpu_name()}, {memory.available / 2**30:.1f} of "
        f"{memory.total / 2**30:.1f} GiB memory free"
    )
    if os.path.isdir("/dev/shm"):  # noqa: S108  (looked at, not written to)
        shared = shutil.disk_usage("/dev/shm").free  # noqa: S108
        if shared < _LEAST_SHARED_MEMORY_BYTES:
            return Check(
                "machine",
                "note",
                f"{text}; /dev/shm has {shared / 2**20:,.0f} MiB only, so Ray uses the disk: start "
                "the container with --shm-size",
            )
    return Check("machine", "ok", text)


def _disk() -> Check:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < _LEAST_DISK_BYTES:
        return Check("disk", "fail", f"{text}; free some, or let TMPDIR name another folder")
    return Check("disk", "ok", text)


def _plugins() -> Check:
    """What entry points add, by kind; a note where some of it cannot be used."""
    registries = (JOBS, FORMS, READERS, FIRST_PASSES, MODULE_TYPES)
    names = [
        f"{registry.what} {registry.with_origin(name)}"
        for registry in registries
        for name in sorted(registry.plugins)
    ]
    problems = [registry.problem(name) for registry in registries for name in registry.plugins]
    if any(problems):
        return Check("plug-ins", "note", "; ".join(filter(None, problems)))
    return Check("plug-ins", "ok", ", ".join(names) or "none")


def _store(output: str) -> Check:
    """Create-if-absent, the time of a call, and the store's clock beside this machine's."""
    began = time.perf_counter()
    probe(output)
    url = join(output, "_stx", "probe.json")
    read_bytes(url)
    seconds = time.perf_counter() - began
    text = f"{redact(output)} creates an object only if it is absent; {seconds * 1000:,.0f} ms"
    if scheme(output) in LOCAL:
        free = shutil.disk_usage(file_info(url).url.removeprefix("file://")).free
        return Check("store", "ok", f"{text}; {free / 2**30:.1f} GiB free")
    return Check("store", "ok", text)


def _packages() -> Check:
    there, missing = [], []
    for name in _PACKAGES:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("packages", "fail", f"{', '.join(missing)} missing; run: pip install stx")
    return Check("packages", "ok", ", ".join(there))


def _kernels() -> Check:
    kind = cpu_class()
    if kind == "other":
        text = "this CPU has no units for bfloat16: models run in float32, on torch's own kernels"
        return Check("kernels", "note", text)
    try:
        kernel_library.built()
    except (OSError, subprocess.SubprocessError) as error:
        return Check(
            "kernels",
            "note",
            f"{kind}, but they cannot be built ({kernel_library.reason(error)}): encoding is "
            "slower; install a C++ compiler",
        )
    return Check("kernels", "ok", f"built for {kind}")


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        build = (
            f"torch is built for CUDA {torch.version.cuda}"
            if torch.version.cuda
            else ("torch is built without CUDA")
        )
        return Check("GPU", "ok", f"none here, {build}: CPUs are used")
    names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return Check("GPU", "ok", ", ".join(names))


def _cluster() -> Check:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Check("Ray", "ok", "RAY_ADDRESS is not set: Ray is started here where it is needed")
    from stx.pipelines.running.cluster import cluster_size

    cpus, gpus = cluster_size("ray", available_cores())
    text = f"{redact(address)}: {cpus:g} CPUs, {gpus:g} GPUs"
    if not cpus:
        return Check("Ray", "fail", f"{text}; no node has joined: look at `ray status`")
    return Check("Ray", "ok", text)


def _model(model: str, kind: str) -> Check:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from stx_core import CrossEncoder, SentenceTransformer, SparseEncoder
    from stx_core.models.folder import resolve_folder

    disable_progress_bars()  # transformers asks it, too
    began = time.perf_counter()
    if kind == "reranker":
        folder = resolve_folder(model, default_org="cross-encoder")
        pair = ("a query", "a document")
        CrossEncoder(str(folder)).predict([pair], show_progress_bar=False)
        what = "scores pairs"
    else:
        folder = resolve_folder(model, default_org="sentence-transformers")
        encoder = (SentenceTransformer if kind == "dense" else SparseEncoder)(str(folder))
        embedding = encoder.encode("a text", convert_to_tensor=True, show_progress_bar=False)
        vector = cast("torch.Tensor", embedding)
        what = f"{vector.shape[-1]:,} dimensions, at most {encoder.max_seq_length} tokens"
    seconds = time.perf_counter() - began
    return Check("model", "ok", f"{model}: {what}; loaded and run in {seconds:.1f} s")
