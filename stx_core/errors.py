"""The errors of stx: each message says what is wrong, where, and what to do.

    StxError
    ├── SpecError (ValueError)      the job description is wrong; exit code 2
    ├── InputError (ValueError)     rows or files of the corpus; quarantined, or fatal by policy
    ├── ModelError (ValueError)     model folder, weights, settings; exit code 2
    ├── RunActive                   another start of this run is at work; exit code 0
    ├── QualityRefused              what was encoded fails a check of the spec; exit code 5
    ├── Stopped                     before the end, as asked for: run again to go on; exit code 4
    ├── Pinned                      an operator holds the current version; exit code 6
    └── StoreError (OSError)        storage, after its retries; exit code 1
        ├── CommitConflict          another run committed first: plan again
        ├── Fenced                  a newer start of this run took over: stop
        ├── DamagedFile             bytes of a dataset are missing or not those that were written
        └── SnapshotExpired         gc or forget removed this version: open a kept one

They cross process borders (Ray pickles them), so each takes one message and nothing else.
"""


class StxError(Exception):
    """Root of all errors that stx raises on purpose. Commands print it as one line."""


class SpecError(StxError, ValueError):
    """The user can mend this in the spec or on the command line."""


class Stopped(StxError):
    """A run ended before its end, as asked for. Finished units are kept."""


class QualityRefused(StxError):
    """The result of a run fails checks of its spec. Nothing is published, finished units stay."""


class Pinned(StxError):
    """A rollback holds the current version: nothing is committed until it is released."""


class InputError(StxError, ValueError):
    """A file or row of the corpus cannot be used. The message names file, row and column."""


class ModelError(StxError, ValueError):
    """A model folder cannot be loaded, or would not compute what it was trained for."""


class RunActive(StxError):
    """Another start is at work on the same run; there is nothing to do here."""


class StoreError(StxError, OSError):
    """Storage failed after its retries. Nothing was deleted; running again is safe."""


class CommitConflict(StoreError):
    """Another run committed first, and it touched the same shards."""


class Fenced(StoreError):
    """A newer start of the same run took over; this one must stop and publish nothing."""


class DamagedFile(StoreError):
    """A file of a dataset is missing, or its bytes are not those that were written."""


class SnapshotExpired(StoreError):
    """This version was removed by gc or forget; open one that is kept."""
