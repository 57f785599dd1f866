import os
import threading

import pyarrow as pa
import pytest
import ray

from stx.pipelines.running import unit_table
from stx.pipelines.running.activity import InFlight, current_phase, in_flight, phase, report
from stx.pipelines.running.cluster import check_fits, start_ray
from stx.pipelines.running.gate import Gate
from stx.pipelines.running.stream import StageSpec, run
from stx.pipelines.running.watch import original_errors, watched
from stx_core.errors import InputError, SpecError, StoreError, StxError
from stx_core.store.files import retries
from stx_core.store.files.s3 import S3Options, current_options, use_options


class AddSum:
    """A stage: adds a column and says in which process it ran."""

    def __init__(self, offset):
        self.offset = offset

    def __call__(self, table):
        numbers = table.column("number").to_pylist()
        table = table.append_column("sum", pa.array([n + self.offset for n in numbers]))
        return table.append_column("process", pa.array([os.getpid()] * len(numbers)))


class HalfDone:
    """A stage that reports on its way, and writes down what is known of it then."""

    def __call__(self, table):
        report(0.5, 7)
        return table.append_column("seen", pa.array([str(in_flight())] * len(table)))


class DropRow:
    """A stage that breaks its promise."""

    def __call__(self, table):
        return table.slice(1)


class Refuse:
    """A stage that finds bad input."""

    def __call__(self, table):
        raise InputError("part-7.parquet row 3: 'text' is null")


class AddEndpoint:
    """A stage: adds the endpoint of the store as its process knows it, and repeats a call."""

    def __init__(self, progress=None, memory_share=1.0):
        pass

    def __call__(self, table):
        retries.add_counts({"503": 1})
        return table.append_column("stage", pa.array([current_options().endpoint] * len(table)))


def read(unit):
    return pa.table({"number": list(range(unit["start"], unit["stop"]))})


def write(unit, table):
    return {
        "start": unit["start"],
        "numbers": table.column("number").to_pylist(),
        "sums": table.column("sum").to_pylist(),
        "processes": sorted(set(table.column("process").to_pylist())),
    }


UNITS = [
    {"start": start, "stop": start + size} for start, size in ((0, 3), (3, 1), (4, 50), (54, 2))
]


@pytest.fixture(scope="module")
def cluster():
    start_ray(2)
    yield
    ray.shutdown()


def results(runner, stages):
    found = list(run(UNITS, read, stages, write, runner))
    return sorted(found, key=lambda result: result["start"])


def test_units_come_through_ray_whole_and_once(cluster):
    found = results("ray", [StageSpec(AddSum, {"offset": 10})])

    assert [result["start"] for result in found] == [0, 3, 4, 54]
    assert [result["numbers"] for result in found] == [
        list(range(unit["start"], unit["stop"])) for unit in UNITS
    ]
    assert all(result["sums"] == [number + 10 for number in result["numbers"]] for result in found)
    assert all(os.getpid() not in result["processes"] for result in found)


def test_the_local_runner_gives_the_same_results(cluster):
    stages = [StageSpec(AddSum, {"offset": 1})]

    local, remote = results("local", stages), results("ray", stages)

    for result in local + remote:
        result.pop("processes")
    assert local == remote


@pytest.fixture
def endpoint():
    before = current_options()
    use_options(S3Options(endpoint="http://store.invalid"))
    yield "http://store.invalid"
    use_options(before)


@pytest.mark.parametrize("runner", ["local", "ray"])
@pytest.mark.parametrize("stall_timeout_s", [None, 60])
def test_store_options_of_the_driver_hold_in_every_process(
    cluster, endpoint, runner, stall_timeout_s
):
    def read(unit):
        return pa.table({"read": [current_options().endpoint]})

    def write(unit, table):
        return [*table.to_pylist()[0].values(), current_options().endpoint]

    stage = StageSpec(AddEndpoint, stall_timeout_s=stall_timeout_s)

    assert list(run([{}], read, [stage], write, runner)) == [[endpoint] * 3]


@pytest.mark.parametrize("runner", ["local", "ray"])
@pytest.mark.parametrize("stall_timeout_s", [None, 60])
def test_repeated_storage_calls_of_stages_are_in_the_notes(cluster, runner, stall_timeout_s):
    def read(unit):
        return unit_table.with_notes(pa.table({"number": [1]}), retries={"503": 1, "timeout": 2})

    def write(unit, table):
        return unit_table.notes(table)["retries"]

    stage = StageSpec(AddEndpoint, stall_timeout_s=stall_timeout_s)

    assert list(run([{}], read, [stage], write, runner)) == [{"503": 2, "timeout": 2}]


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_an_error_of_a_stage_arrives_as_it_was_raised(cluster, runner):
    with pytest.raises(InputError, match=r"part-7\.parquet row 3"):
        results(runner, [StageSpec(Refuse)])


def test_a_stage_that_loses_a_row_is_stopped():
    with pytest.raises(AssertionError, match="DropRow took 3 rows and returned 2"):
        results("local", [StageSpec(DropRow)])


class EndActor:
    """A stage that takes its actor along at one number."""

    def __call__(self, table):
        if 3 in table.column("number").to_pylist():
            os._exit(1)
        return table


def only_start(unit, table):
    return {"start": unit["start"]}


def name(unit):
    return f"unit at {unit['start']}"


@pytest.mark.faults
def test_a_unit_that_ends_its_actors_ends_the_run_and_is_named(cluster):
    with pytest.raises(StoreError, match="unit at 3: 4 actors or nodes were lost"):
        list(run(UNITS, read, [StageSpec(EndActor)], only_start, "ray", name=name))


class NotMade:
    """A stage whose constructor fails."""

    def __init__(self):
        raise RuntimeError("no driver for this device")

    def __call__(self, table):
        return table


def test_actors_that_cannot_be_made_end_the_run_with_the_last_error(cluster):
    with pytest.raises(StoreError, match=r"RuntimeError: no driver for this device.* run again"):
        list(run(UNITS, read, [StageSpec(NotMade)], only_start, "ray", name=name))


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_after_the_deadline_nothing_is_read(cluster, runner):
    def never(unit):
        raise AssertionError("read")

    assert (
        list(run(UNITS, never, [StageSpec(AddSum, {"offset": 1})], write, runner, seconds=-1)) == []
    )


def test_a_stream_that_does_not_move_ends_with_what_is_in_flight(monkeypatch):
    monkeypatch.setattr("stx.pipelines.running.watch._WATCH_S", 0.05)
    moves = threading.Event()

    def stuck():
        yield 1
        moves.wait(60)

    items = watched(stuck(), 0.2, lambda: 1.0, lambda: "part-7.parquet rows 0-64")

    assert next(items) == 1
    with pytest.raises(StoreError, match=r"nothing moved .* in flight: part-7.parquet rows 0-64"):
        next(items)
    moves.set()


def test_a_stream_in_which_a_stage_is_at_work_is_left_alone(monkeypatch):
    monkeypatch.setattr("stx.pipelines.running.watch._WATCH_S", 0.05)
    asked = threading.Event()

    def idle():
        asked.set()
        return 0.0

    def slow():
        assert asked.wait(60)
        yield 1

    assert list(watched(slow(), 0.1, idle, lambda: "")) == [1]


def test_errors_pass_the_watchdog():
    def broken():
        yield 1
        raise InputError("part-7.parquet row 3")

    items = watched(broken(), 60, lambda: 0.0, lambda: "")

    assert next(items) == 1
    with pytest.raises(InputError, match="row 3"):
        next(items)


def test_no_units_need_no_ray():
    assert list(run([], read, [], write, "ray")) == []


def test_pools_that_do_not_fit_are_refused_with_the_arithmetic():
    stages = [StageSpec(AddSum, actors=2, cpus=2)]

    with pytest.raises(
        SpecError, match="take 4 CPUs, readers and writers 1, but the cluster has 4"
    ):
        check_fits(stages, cpus=4, gpus=0)
    check_fits(stages, cpus=5, gpus=0)


def test_gpus_that_are_not_there_are_refused():
    with pytest.raises(SpecError, match="take 2 GPUs, but the cluster has 1"):
        check_fits([StageSpec(AddSum, actors=2, cpus=0, gpus=1)], cpus=8, gpus=1)


def test_a_range_waits_for_nodes_on_a_cluster_and_is_refused_on_this_machine(monkeypatch):
    stages = [StageSpec(AddSum, actors=8, cpus=2, min_actors=2)]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    with pytest.raises(SpecError, match="2 actors x .* take 4 CPUs"):
        check_fits(stages, cpus=4, gpus=0)
    check_fits(stages, cpus=5, gpus=0)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_fits(stages, cpus=0, gpus=0)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("ray://127.0.0.1:1", "Connection refused"),
        ("127.0.0.1:99999999", ""),
        ("127.0.0.1:" + "9" * 5000, ""),
        ("http://user:s3cret@host", "Invalid address"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_line_at_once(address, reason, monkeypatch):
    def refuse(**_):
        raise ValueError("Invalid address\n  1. Unset it, or\n  2. set it")

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)

    with pytest.raises(StxError) as refused:
        start_ray(1)

    text = str(refused.value)
    assert "RAY_ADDRESS=" in text
    assert "no Ray cluster answers there" in text
    assert reason in text
    assert "\n" not in text
    assert "s3cret" not in text
    if not reason.startswith("Invalid"):
        assert "Invalid" not in text  # Ray would try for two minutes


def test_a_ray_that_does_not_start_is_one_line(monkeypatch):
    def refuse(**_):
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)

    with pytest.raises(StxError, match="Ray does not start on this machine: The current node"):
        start_ray(1)


def test_what_a_stage_reports_within_a_unit_is_known_until_the_unit_is_finished():
    def write_seen(unit, table):
        return table.column("seen").to_pylist()

    seen = []
    for result in run([{"start": 0, "stop": 4}], read, [StageSpec(HalfDone)], write_seen, "local"):
        seen.append((result, in_flight()))

    assert seen == [([str(InFlight(2.0, 7))] * 4, None)]


def test_the_gate_adds_up_what_actors_report_of_units_in_flight():
    gate = Gate(None)
    assert gate.work() is None
    for unit in ("a", "b"):
        gate.admit(unit)
        gate.note(unit, InFlight(1.5, 10))
    gate.note("a", InFlight(2.5, 20))
    assert gate.work() == InFlight(4.0, 30)

    gate.finish("a")
    gate.note("a", InFlight(3.0, 25))  # it comes late

    assert gate.work() == InFlight(1.5, 10)


def test_while_ray_is_waited_for_somebody_may_look(monkeypatch):
    monkeypatch.setattr("stx.pipelines.running.watch._WATCH_S", 0.05)
    looked = threading.Event()

    def items():
        looked.wait(60)
        yield 1

    assert list(watched(items(), 60, lambda: 0.0, what=str, look=looked.set)) == [1]


def test_the_innermost_phase_is_the_current_one():
    with phase("outer"):
        with phase("inner"):
            assert current_phase() == "inner"
        assert current_phase() == "outer"
    assert current_phase() == ""


def test_an_error_of_ours_in_a_worker_is_one_line_whatever_ray_writes_around_it():
    advice = "Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change …"
    raised = InputError(f"a.parquet row 3: column 'text' is null\n{advice}")
    from_ray = ray.exceptions.RayTaskError("read", "Traceback …", raised).as_instanceof_cause()

    with pytest.raises(InputError) as seen, original_errors(lambda: "unit 1"):
        raise from_ray

    assert str(seen.value) == "a.parquet row 3: column 'text' is null"
