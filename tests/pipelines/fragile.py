"""A stage for the tests of supervision, in a file that a child process imports in no time."""

import os
import signal
import sys
import time

import pyarrow as pa

from stx.pipelines.running import unit_table
from stx.pipelines.running.activity import report
from stx_core.errors import ModelError

STALL_S = 3


class Fragile:
    """A stage with some words that it does not survive; it writes down each of its starts."""

    def __init__(self, starts, load="", progress=None, memory_share=1.0):
        with open(starts, "a") as file:
            file.write(f"{os.getpid()} {memory_share}\n")
        self.progress, self.memory_share = progress, memory_share
        self._on(load)

    def __call__(self, table):
        texts = table.column(unit_table.TEXT).to_pylist()
        for text in texts:
            self._on(text)
            self.progress()
            report(0.5, len(text or ""))
        lengths = pa.array([None if text is None else len(text) for text in texts], pa.int32())
        return table.append_column("length", lengths)

    def _on(self, text):
        if text == "abort":
            sys.stderr.write("what it said before\n")
            os.abort()
        elif text == "exit":
            os._exit(7)
        elif text == "hang":
            while True:
                pass
        elif text == "large" and self.memory_share == 1 or text == "too large":
            os.kill(os.getpid(), signal.SIGKILL)
        elif text == "fail":
            raise KeyError("the text of a document")
        elif text == "refuse":
            raise ModelError("weights are missing")
        elif text == "slow":
            time.sleep(STALL_S / 2)
