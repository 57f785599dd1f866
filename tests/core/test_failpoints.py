import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from stx_core import failpoints

ROOT = Path(__file__).resolve().parents[2]


def hit_in_a_new_process(folder, *names):
    script = "import sys\nfrom stx_core import failpoints\n"
    script += "for name in sys.argv[1:]: failpoints.hit(name); print(name, flush=True)"
    return subprocess.run(
        [sys.executable, "-c", script, *names],
        cwd=ROOT,
        env=os.environ | {"STX_FAILPOINTS": str(folder)},
        capture_output=True,
        text=True,
    )


def named_in(folder):
    text = "\n".join(path.read_text() for path in sorted((ROOT / folder).rglob("*.py")))
    return {name for name in failpoints.NAMES if f'"{name}"' in text}


def test_without_the_variable_a_failpoint_does_nothing():
    assert failpoints.FOLDER == ""
    assert failpoints.hit("plan.listed") is None


def test_every_name_has_exactly_one_place_in_the_code():
    calls = []
    for package in ("stx_core", "pipelines", "jobs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            calls += re.findall(r"failpoints\.hit\(\"([a-z_.]+)\"\)", path.read_text())

    assert sorted(calls) == sorted(failpoints.NAMES)


def test_every_name_is_used_by_a_fault_test():
    assert named_in("tests/faults") == set(failpoints.NAMES)


def test_an_armed_place_fails_as_the_token_says_and_only_once(tmp_path):
    (tmp_path / "write.before@1=fail:28").touch()

    first = hit_in_a_new_process(tmp_path, "write.before")
    second = hit_in_a_new_process(tmp_path, "write.before")

    assert "OSError: [Errno 28] No space left on device" in first.stderr
    assert second.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["used.write.before@1=fail:28"]


def test_tokens_are_taken_in_the_order_of_their_numbers(tmp_path):
    for token in ("ledger.after@001=pass", "ledger.after@002=SIGKILL", "commit.after@001=SIGKILL"):
        (tmp_path / token).touch()

    hurt = hit_in_a_new_process(tmp_path, "ledger.after", "plan.listed", "ledger.after")

    assert hurt.returncode == -signal.SIGKILL
    assert hurt.stdout.split() == ["ledger.after", "plan.listed"]


def test_of_many_processes_one_takes_the_token(tmp_path):
    (tmp_path / "claim.before@1=SIGKILL").touch()
    script = "from stx_core import failpoints; failpoints.hit('claim.before')"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=os.environ | {"STX_FAILPOINTS": str(tmp_path)},
        )
        for _ in range(8)
    ]

    codes = sorted(process.wait() for process in processes)

    assert codes == [-signal.SIGKILL] + [0] * 7


def test_a_name_that_begins_like_another_is_left_alone(tmp_path):
    (tmp_path / "ledger.after@1=fail:5").touch()

    assert hit_in_a_new_process(tmp_path, "ledger").returncode == 0


def test_an_unknown_action_is_refused(tmp_path):
    (tmp_path / "ledger.after@1=SIGNONE").touch()

    assert "KeyError: 'SIGNONE'" in hit_in_a_new_process(tmp_path, "ledger.after").stderr
