"""``python -m jobs``, for clones of the repository: the same as ``stx``."""

from jobs.cli import main

main()
