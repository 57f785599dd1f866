"""Rankings as TREC run files."""

import pyarrow.dataset as ds

from stx.pipelines.exports.new_file import new_lines
from stx.pipelines.exports.options import ExportOptions
from stx_core.evaluation.rankings import dataset_tables
from stx_core.evaluation.trec import check_tag, trec_lines


def write_trec(dataset: ds.Dataset, destination: str, options: ExportOptions) -> int:
    """Write a ranking as a TREC run file, by gzip if its name ends so; gives the rows written.

    Raises:
        InputError: no ranking, or an id or the tag holds white space.
    """
    check_tag(options.tag)
    n_rows = 0
    with new_lines(destination) as stream:
        for table in dataset_tables(dataset, options.source):
            stream.write(trec_lines(table, options.tag))
            n_rows += len(table)
    return n_rows
