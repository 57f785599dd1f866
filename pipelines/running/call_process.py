"""The child of `python_child.call`: one function, its result, the end.

``python -m stx.pipelines.running.call_process FD``: the file descriptor is its end of the
connection.
"""

import contextlib
import sys
from multiprocessing.connection import Connection

from stx.pipelines.running.python_child import exit_with_parent


def main() -> None:
    """Call what the parent sends, and send what came of it."""
    connection = Connection(int(sys.argv[1]))
    function, arguments = connection.recv()
    exit_with_parent(connection, lambda _: None)
    try:
        answer = (False, function(*arguments))
    except Exception as error:
        answer = (True, error)
    with contextlib.suppress(ConnectionError):
        connection.send(answer)


if __name__ == "__main__":
    main()
