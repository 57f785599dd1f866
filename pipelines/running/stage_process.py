"""The child of `running.supervise`: one stage, and tables to it until the parent is gone.

``python -m stx.pipelines.running.stage_process FD``: the file descriptor is its end of the
connection.
"""

import contextlib
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

import pyarrow as pa

from stx.pipelines.running.activity import reporting_to
from stx.pipelines.running.python_child import exit_with_parent
from stx.pipelines.running.unit_table import to_bytes, with_retries
from stx_core.errors import StxError
from stx_core.store.files.s3 import use_options

_ERROR_CHARS = 200

# Of the range -1000 to 1000: when memory runs out the kernel takes the process that holds the
# model, and not its parent, nor Ray's services.
_OOM_SCORE = "900"


def main() -> None:
    """Load, say so, and answer each table with the columns that the stage added."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    connection = Connection(int(sys.argv[1]))
    stage_class, settings, memory_share, options = connection.recv()
    use_options(options)
    requests: SimpleQueue[bytes] = SimpleQueue()
    exit_with_parent(connection, requests.put)

    def progress(*done: float) -> None:
        connection.send(("progress", done))

    try:
        stage = stage_class(**settings, progress=progress, memory_share=memory_share)
        connection.send(("done", b""))
        while True:
            table = pa.ipc.open_stream(requests.get()).read_all()
            try:
                with reporting_to(progress):
                    result = with_retries(stage(table))
                if result.num_rows != table.num_rows:
                    raise AssertionError(
                        f"took {table.num_rows} rows and returned {result.num_rows}"
                    )
                new = [name for name in result.column_names if name not in table.column_names]
                connection.send(("done", to_bytes(result.select(new)).to_pybytes()))
            except StxError as error:
                connection.send(("error", error))
    except StxError as error:
        connection.send(("error", error))
    except ConnectionError:
        return
    except Exception as error:
        # After a CUDA error the process is of no more use, and other errors cannot be told from
        # it: the parent starts another one. Of the text it gets only torch's, in one line: others
        # may quote a document.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        if isinstance(error, RuntimeError) and str(error):
            detail += f": {str(error).splitlines()[0][:_ERROR_CHARS]}"
        connection.send(("failed", detail))


if __name__ == "__main__":
    main()
