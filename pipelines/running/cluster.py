"""The cluster: Ray is started or connected to, and its size is compared with what pools need."""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stx.pipelines.running.activity import phase
from stx.pipelines.running.leftovers import end_leftovers, note_session
from stx.pipelines.running.safe_path import safe_entries, safe_environment
from stx.pipelines.running.stopping import kept_signal_handlers
from stx.pipelines.running.stream import IO_CPUS, StageSpec
from stx_core.errors import SpecError, StxError
from stx_core.store.files.urls import redact

# Ray starts tasks that it killed for their memory again, for ever (ray issue 32219).
_MAX_OOM_RETRIES = 16

_ANSWER_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)

_BEFORE_BFLOAT16 = {"K80", "P100", "P4", "T4", "V100"}


def cluster_size(runner: str, cores: int) -> tuple[float, float]:
    """CPUs and GPUs that actors can be given; Ray is started, or connected to, for the answer.

    Args:
        runner: "local" asks no cluster.
        cores: of this machine.
    """
    if runner == "local":
        return cores + 2 * IO_CPUS, 0
    with phase("starting Ray"):
        start_ray(cores)
    size = _largest_size()
    return size.get("CPU", 0.0), size.get("GPU", 0.0)


def _largest_size() -> dict[str, float]:
    """Resources of all nodes that have joined; or, where it is more, that may join.

    Only clusters whose autoscaler reports its limits to Ray tell the latter: those that come with
    Ray do not (seen in 2.60), nor is there a public call; Ray Data reads the same record.
    """
    import ray
    import ray._private.state

    joined = ray.cluster_resources()
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    names = joined.keys() | limits.keys()
    return {name: max(joined.get(name, 0.0), float(limits.get(name, 0))) for name in names}


def gpus_have_bfloat16() -> bool:
    """True if every kind of GPU of the cluster has units for it, by the names that Ray knows."""
    kinds = (name.partition(":") for name in _largest_size())
    return not {kind for label, _, kind in kinds if label == "accelerator_type"} & _BEFORE_BFLOAT16


def start_ray(cpus: int) -> None:
    """Connect to the cluster named by RAY_ADDRESS, or start Ray on this machine.

    Args:
        cpus: cores of this machine to use, if Ray is started here. Ray is told of one more, the
            share of readers and writers: actors that hold every logical CPU starve them, and the
            run hangs (ray issue 44687).
    """
    import ray
    import ray._private.worker

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_task_oom_retries", str(_MAX_OOM_RETRIES))
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        end_leftovers()
    else:
        # Ask the port, where the address names one: Ray would try for two minutes.
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdecimal():
            try:
                socket.create_connection((host.strip("[]"), int(port)), _ANSWER_TIMEOUT_S).close()
            except (OSError, OverflowError, ValueError) as error:
                raise StxError(_why_no_ray(address, error)) from None
    try:
        with kept_signal_handlers(), safe_environment(), _silent_stderr():
            ray.init(
                address=None if address else "local",
                num_cpus=None if address else cpus + 1,
                include_dashboard=None if address else False,
                job_config=_job_config(),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    # Whatever it is, with or without a text: connections, timeouts, versions that differ.
    except Exception as error:
        raise StxError(_why_no_ray(address, error)) from error
    if not address:
        note_session(os.path.basename(ray._private.worker._global_node.get_session_dir_path()))


def _why_no_ray(address: str | None, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = redact(lines[0] if lines else type(error).__name__)[:300]
    if address is None:
        return (
            f"Ray does not start on this machine: {reason}; see the logs in ray/session_latest of "
            "the folder for temporary files, or work without it: resources.runner=local"
        )
    return (
        f"RAY_ADDRESS={redact(address)}: no Ray cluster answers there: {reason}; set it to "
        "HOST:6379 of the head, or unset it to start Ray on this machine"
    )


def _job_config() -> Any:  # noqa: ANN401  (ray ships no usable types)
    from ray.job_config import JobConfig

    class SafeJobConfig(JobConfig):  # type: ignore[misc]
        """Settings that Ray gives its workers, without the current folder.

        Ray would put it first on their module path, before the standard library, and there is no
        public way to say no.
        """

        def _serialize(self) -> Any:  # noqa: ANN401
            self._py_driver_sys_path[:] = safe_entries(self._py_driver_sys_path)
            return super()._serialize()

    return SafeJobConfig()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep what Ray's core prints at its start, past Python, off the terminal; errors raise."""
    terminal = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def check_fits(stages: Sequence[StageSpec], cpus: float, gpus: float) -> None:
    """Refuse pools that the cluster cannot hold, with the arithmetic: starved actors hang.

    A pool with a least number of actors may wait for nodes to join; not on Ray of this machine
    alone, where none will.

    Raises:
        SpecError: the reservations exceed the cluster.
    """
    problem = _shortage(stages, cpus, gpus)
    if problem is None:
        return
    if not os.environ.get("RAY_ADDRESS") or any(stage.min_actors is None for stage in stages):
        raise SpecError(problem)
    logger.info("waiting for nodes to join; now %s", problem)


def _shortage(stages: Sequence[StageSpec], cpus: float, gpus: float) -> str | None:
    """Say what the cluster lacks; None where all pools fit."""
    counts = [stage.min_actors or stage.actors for stage in stages]
    needed_cpus = sum(n * stage.cpus for n, stage in zip(counts, stages, strict=True))
    needed_gpus = sum(n * stage.gpus for n, stage in zip(counts, stages, strict=True))
    pools = ", ".join(
        f"{s.stage.__name__} {n} actors x ({s.cpus:g} CPU, {s.gpus:g} GPU)"
        for n, s in zip(counts, stages, strict=True)
    )
    if needed_cpus + 2 * IO_CPUS > cpus:
        return (
            f"resources: {pools} take {needed_cpus:g} CPUs, readers and writers {2 * IO_CPUS:g}, "
            f"but the cluster has {cpus:g}; lower resources.actors or resources.cpus_per_actor"
        )
    if needed_gpus > gpus:
        return (
            f"resources: {pools} take {needed_gpus:g} GPUs, but the cluster has {gpus:g}; "
            "lower resources.actors or resources.gpus_per_actor"
        )
    for n, stage in zip(counts, stages, strict=True):
        for name, amount in stage.custom.items():
            if n * amount > (available := _largest_size().get(name, 0.0)):
                return (
                    f"resources: {stage.stage.__name__} {n} actors take {n * amount:g} {name}, but "
                    f"the cluster has {available:g}; see resources.custom"
                )
    return None
