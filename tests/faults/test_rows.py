"""Which test injects which row of the fault table; a row without a test is seen here."""

import ast
from collections import defaultdict
from pathlib import Path

ROWS = {
    1: "actor killed in the middle of a batch",
    2: "killed after the data file, after the record",
    3: "raylet killed or cut off",
    4: "driver killed at plan, claim, stream, before and after the commit",
    5: "SIGTERM, deadline",
    6: "stopped driver wakes after a takeover",
    7: "driver stopped inside its commit, takeover or gc meanwhile",
    8: "two starts of one spec in the same second",
    9: "two runs at once, same or other shards",
    10: "write applied, answer lost",
    11: "write applied after the client gave up",
    12: "connection reset in the middle of a body",
    13: "requests swallowed; slow network",
    14: "500, 503, 409 of the store",
    15: "credentials expire",
    16: "bucket missing, write denied",
    17: "store ignores conditions",
    18: "input changed, deleted or grown after the plan",
    19: "bytes cut or flipped in input, data, record, segment, log",
    20: "writer killed between temporary file and link",
    21: "disk full",
    22: "worker out of memory",
    23: "accelerator out of memory",
    24: "vectors that are not finite",
    25: "text that kills or hangs the process",
    26: "model does not load",
    27: "clocks skewed",
    28: "gc races a run, an adopter, a reader; gc killed",
    29: "rollback while a run is in flight",
    30: "ids that occur twice; more than 1,000 keys (that: tests/core/store/test_s3.py)",
}


def find_tests():
    """Test names by row, from the marks in the files beside this one."""
    found = defaultdict(list)
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                for row in marked_rows(node):
                    found[row].append(f"{path.name}::{node.name}")
    return found


def marked_rows(function):
    for mark in function.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.row":
            yield ast.literal_eval(mark.args[0])


def test_each_row_of_the_fault_table_has_a_test():
    missing = {row: said for row, said in ROWS.items() if not find_tests()[row]}

    assert missing == {}
    assert set(find_tests()) == set(ROWS)
