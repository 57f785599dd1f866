"""A job as Ray's job API takes it: its command, its files, its id.

The id is made of the spec, so a cluster knows whether a spec is at work: who submits it again
meanwhile gets the job that runs. Jobs that ended are counted, the next one has the next number.
Ray itself refuses an id that it knows, so of two that submit in the same second one attaches.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

from pydantic import BaseModel

from stx.pipelines.flow import FlowSpec, read_steps
from stx.pipelines.jobs import FLOW, job_of, with_commands
from stx.pipelines.spec.file import SECRET_NAME, load_spec, read_values
from stx.pipelines.submit.git import commit_of
from stx_core.errors import SpecError
from stx_core.store.files.urls import LOCAL, redact, scheme

# Ray's three seconds are too few for the log entry that says that the run rests.
_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}

# Keys of specs that name files and folders.
_PATHS = ("path", "positives", "qrels", "ranking", "against", "json_file", "markdown", "source")

_NUMBER = re.compile(r"-(\d+)$")


class RuntimeEnv(TypedDict, total=False):
    """The keys of Ray's runtime environment that are used."""

    env_vars: dict[str, str]
    excludes: list[str]


@dataclass(frozen=True)
class Submission:
    """A job as it is sent.

    Attributes:
        name: of job and spec; ids are this and a number.
        command: on the cluster, in the folder.
        folder: that is shipped, or a URL of one.
        excludes: patterns of files in it that are not, as in a .gitignore.
        metadata: kept by Ray beside the job, in plain text.
        hints: lines about paths that mean another place on the cluster.
    """

    name: str
    command: tuple[str, ...]
    folder: str
    excludes: tuple[str, ...]
    metadata: Mapping[str, str]
    hints: tuple[str, ...] = ()

    @property
    def entrypoint(self) -> str:
        """The command as one line for a shell."""
        return shlex.join(self.command)

    @property
    def runtime_env(self) -> RuntimeEnv:
        """Environment that Ray prepares for the command, the folder apart."""
        environment = RuntimeEnv(env_vars=_ENVIRONMENT)
        return environment | {"excludes": list(self.excludes)} if self.excludes else environment

    def numbered(self, ids: Sequence[str]) -> str:
        """The id of the next job, given those that the cluster has."""
        matches = [_NUMBER.search(id_) for id_ in ids if self.has_id(id_)]
        return f"{self.name}-{max((int(match[1]) for match in matches if match), default=0) + 1}"

    def has_id(self, id_: str | None) -> bool:
        """True if an id is one of this spec."""
        return id_ is not None and _NUMBER.sub("", id_) == self.name

    def ray_command(self, address: str, id_: str) -> str:
        """The same as a line of Ray's own command."""
        options = {
            "--address": redact(address),
            "--submission-id": id_,
            "--working-dir": self.folder,
            "--runtime-env-json": json.dumps(self.runtime_env),
            "--metadata-json": json.dumps(dict(self.metadata)),
        }
        words = [word for option in options.items() for word in option]
        return shlex.join(["ray", "job", "submit", *words, "--", *self.command])


def describe(
    path: str,
    job: str | None = None,
    overrides: Sequence[str] = (),
    *,
    folder: str | None = None,
    user_metadata: Sequence[str] = (),
    allow_alerts: bool = False,
    allow_code: bool = False,
    dry_run: bool = False,
) -> Submission:
    """Check a spec, and say what its job is sent as.

    Args:
        path: of the spec file.
        job: its command; None: what the spec's keys say.
        overrides: ``a.b=value`` over the spec.
        folder: to ship, the spec in it. Files that its .gitignore and .rayignore name stay here.
            None: the spec alone, for a flow with the specs that it names.
        user_metadata: ``key=value`` to keep beside the job.
        allow_alerts: the spec's alerts are trusted there.
        allow_code: the functions are that ``inputs.map`` names.
        dry_run: print the plan on the cluster.

    Raises:
        SpecError: the spec is not valid, or not in the folder; metadata that look like a secret.
    """
    values = read_values(path)
    job, kind = _job_and_class(job or None, values, path)
    spec = load_spec(path, overrides, kind)
    # The steps of a flow are checked with it.
    specs = [step.spec for step in read_steps(spec, path)] if isinstance(spec, FlowSpec) else [spec]
    contents = [job, dry_run, *(part.model_dump(mode="json") for part in specs)]
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:12]
    for override in overrides:
        key = override.partition("=")[0]
        if "alerts" in key.split("."):
            raise SpecError(
                f"--set {key}: Ray keeps a job's command in plain text; write alerts into the spec"
            )
    shipped, in_folder = _shipped(Path(path).expanduser(), folder)
    options = [word for override in overrides for word in ("--set", override)]
    options += ["--allow-alerts"] * allow_alerts + ["--allow-code"] * allow_code
    options += ["--dry-run"] * dry_run
    steps = [step for steps in values.get("steps") or [] for step in steps.values()]
    step_files = [step for step in steps if isinstance(step, str)]
    excludes = () if folder else _all_but([in_folder, *step_files], Path(shipped))
    facts = {"job": job, "spec": digest, "stx_version": metadata.version("stx")}
    if commit := commit_of(shipped):
        facts["git_sha"] = commit
    for text in user_metadata:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise SpecError(f"--metadata {text}: write it as key=value")
        if SECRET_NAME.search(key):
            raise SpecError(f"--metadata {key}: Ray keeps metadata in plain text; no secrets there")
        facts[key] = value
    written = [values, *(read_values(step) if isinstance(step, str) else step for step in steps)]
    return Submission(
        name=f"stx-{job}-{digest}",
        command=("stx", job, in_folder, *options),
        folder=shipped,
        excludes=excludes,
        metadata=facts,
        hints=tuple(_hints(written, overrides, Path(shipped), folder)),
    )


def _job_and_class(
    job: str | None, values: Mapping[str, Any], path: str
) -> tuple[str, type[BaseModel]]:
    """The job, which is found by the keys of its spec where it is not named, and its class."""
    jobs = with_commands()
    job = job or job_of(values)
    if job is None:
        raise SpecError(f"{path}: no key says which job it is of; name it by --job")
    if job == FLOW:
        return job, FlowSpec
    if job not in jobs:
        raise SpecError(f"--job {job}: name one of {FLOW}, {', '.join(jobs)}")
    return job, jobs[job].spec_class()


def _shipped(path: Path, folder: str | None) -> tuple[str, str]:
    """The folder to ship, and the spec's path in it."""
    if folder is None:
        # A flow names its specs as seen from here.
        here = Path.cwd()
        place = here if path.resolve().is_relative_to(here) else path.resolve().parent
        return str(place), str(path.resolve().relative_to(place))
    if "://" in folder:
        return folder, str(path)
    place = Path(folder).expanduser().resolve()
    if not place.is_dir():
        raise SpecError(f"--working-dir {folder}: not a folder")
    if not path.resolve().is_relative_to(place):
        raise SpecError(f"{path} is not in --working-dir {folder}, so the job would not find it")
    return str(place), str(path.resolve().relative_to(place))


def _all_but(files: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Patterns that leave these files of a folder, and the folders on the way to them."""
    patterns = ["*", "!."]  # "*" is also the folder itself
    for file in files:
        if not (folder / file).is_file() or Path(file).is_absolute() or ".." in Path(file).parts:
            raise SpecError(f"{file} is not below {folder}; ship a folder by --working-dir")
        parts = Path(file).parts
        patterns += [f"!/{'/'.join(parts[:n])}" for n in range(1, len(parts) + 1)]
    return tuple(dict.fromkeys(patterns))


def _hints(
    specs: Iterable[Any], overrides: Sequence[str], shipped: Path, folder: str | None
) -> Iterator[str]:
    """Lines about paths of this machine, as they were written.

    Args:
        specs: plain values.
        overrides: likewise.
        shipped: the folder that is.
        folder: the same where somebody asked for it; None: the specs alone are shipped.
    """
    written = [place for spec in specs for place in _places("", spec)]
    written += [(key, value) for key, _, value in (text.partition("=") for text in overrides)]
    for key, path in written:
        last = key.rpartition(".")[2]
        if last not in _PATHS and not (last == "model" and path.startswith(("~", "."))):
            continue
        if scheme(path) != LOCAL or os.path.isabs(path):
            continue
        if path.startswith("~"):
            yield f"{key}: {redact(path)} is the home folder of whom Ray runs as there"
        elif key.startswith("output.") or ".output." in key or not folder:
            yield (
                f"{key}: {redact(path)} is relative: on the cluster it lies in a folder that Ray "
                "makes for this job and removes; name a URL, or a full path that all nodes share"
            )
        elif "://" not in folder and not (shipped / path).exists():
            yield f"{key}: {redact(path)} is relative, and not in the folder that is shipped"


def _places(key: str, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Texts in the values of a spec, by their key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _places(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _places(key, inner)
    elif isinstance(value, str):
        yield key, value
