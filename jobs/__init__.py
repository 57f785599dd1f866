"""The command line. Whatever is loaded next does not come from the folder it is started in."""

import sys

from stx.pipelines.running.safe_path import safe_entries

sys.path[:] = safe_entries(sys.path)
