"""``stx verify``: whether a dataset is what it says, and still what its models give."""

from typing import Annotated

import typer

from stx.jobs.runs import prepare
from stx.jobs.terminal import say
from stx.pipelines.running.activity import phase


def verify(
    path: Annotated[str, typer.Argument(help="Dataset that `stx encode` wrote.")],
    version: Annotated[int | None, typer.Option(help="A version other than the current.")] = None,
    reencode: Annotated[
        int, typer.Option(min=0, help="Random rows of each output to encode again and compare.")
    ] = 0,
    model: Annotated[str | None, typer.Option(help="Where the model is now, if moved.")] = None,
    output: Annotated[str | None, typer.Option(help="Encode only this output again.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Encode the units of damaged files again, and commit.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code of the model's folder.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load pickled weights.")
    ] = False,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the `inputs.map` that it was encoded with.")
    ] = False,
) -> None:
    """Read everything and count again; one line per problem, exit code 1 if there is any.

    Damaged files are noted: the next `stx encode` encodes their units again, or --repair now.
    """
    from stx.pipelines.planning.words import counted
    from stx_core.errors import SpecError
    from stx_core.store.snapshot import snapshot_info
    from stx_core.store.verify import verify as check

    n_problems = 0
    with phase("reading all files"):
        for problem in check(path, version):
            n_problems += 1
            say(problem)
    if repair and version is not None:
        raise SpecError("stx verify: --repair goes with the current version only")
    if n_problems:
        say(f"{path}: {counted(n_problems, 'problem')}")
        if not repair:
            raise typer.Exit(1)
        _repair(
            path,
            model,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            allow_code=allow_code,
        )
        n_problems = 0
        for problem in check(path):
            n_problems += 1
            say(problem)
    if n_problems:
        say(f"{path}: {counted(n_problems, 'problem')} left")
        raise typer.Exit(1)
    info = snapshot_info(path, version)
    files = sum(part["files"] for part in info.outputs.values())
    amount = f"{counted(info.rows, 'row')}, {counted(files, 'file')}"
    say(f"{path}: version {info.version}, {amount}: all as written")
    if not reencode:
        return
    from stx.pipelines.verify import encode_again

    all_same = True
    for result in encode_again(
        path,
        reencode,
        output=output,
        version=version,
        model=model,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
    ):
        say(f"  {result}")
        all_same = all_same and result.is_same
    if not all_same:
        raise typer.Exit(1)


def _repair(
    path: str,
    model: str | None,
    *,
    trust_remote_code: bool,
    allow_pickle: bool,
    allow_code: bool,
) -> None:
    from stx.jobs.console import Console
    from stx.pipelines.planning.words import counted
    from stx.pipelines.repair import repair
    from stx_core.store.files.urls import redact

    prepare()
    console = Console(None)
    done = repair(
        path,
        console,
        model=model,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        allow_code=allow_code,
    )
    if done.report is not None:
        console.report(done.report)
    if done.lost:
        say(
            f"{path}: damaged files of {counted(len(done.lost), 'shard')} stay as they are, as "
            f"their input is gone or has changed (for example {redact(done.lost[0])}): run "
            "`stx encode` with the corpus of now, or go back with `stx rollback`"
        )
