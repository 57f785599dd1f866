"""Commands that have nothing to do end as documented, however busy the machine is.

A thread that outlives the interpreter aborts the process after its work is done, once in some tens
of times. ``EXITS=200 make test-faults`` starts each command so often; the default finds what is
gross.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3000)]

TIMES = int(os.environ.get("EXITS", "10"))
# More than there are cores: what a loaded machine is.
AT_ONCE = 2 * (os.cpu_count() or 1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, save_static_model):
    """A corpus, a model, and what they give."""
    import numpy as np

    folder = tmp_path_factory.mktemp("exits")
    model = save_static_model(folder / "model", ["plants", "eat"], np.eye(3, dtype=np.float32))
    (folder / "corpus").mkdir()
    for number in range(4):
        table = pa.table({"id": [f"{number}-{i}" for i in range(50)], "text": ["plants eat"] * 50})
        pq.write_table(table, folder / f"corpus/part-{number}.parquet")
    encode = ["encode", "corpus", "out", "--model", str(model), "--set", "resources.runner=local"]
    assert stx(folder, *encode) == 0
    return folder, encode


def stx(folder, *arguments):
    command = [sys.executable, "-c", "from stx.jobs.cli import main; main()", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    return done.returncode


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ((), 0),
        (("show", "out"), 0),
        (("show", "out", "--rows", "3"), 0),
        (("gc", "out"), 0),
        (("verify", "out"), 0),
        (("rollback", "out", "9"), 1),
        (("search", "out", "plants"), 0),
        (("show", "nowhere"), 1),
        (("encode", "nowhere", "out2", "--model", "model"), 2),
        (("spec", "schema"), 0),
    ],
    ids=lambda command: " ".join(map(str, command)) if isinstance(command, tuple) else "",
)
def test_a_command_ends_as_documented_each_time(dataset, command, code):
    folder, encode = dataset
    with ThreadPoolExecutor(AT_ONCE) as pool:
        codes = list(pool.map(lambda _: stx(folder, *(command or encode)), range(TIMES)))

    assert codes == [code] * TIMES
