"""The command line. Whatever is loaded next does not come from the folder it is started in."""

from stx.pipelines.running.safe_path import leave_current_folder_out

leave_current_folder_out()
