"""``python -m stx.jobs``, for clones of the repository: the same as ``stx``."""

from stx.jobs.cli import main

main()
