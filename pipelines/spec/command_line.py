"""An encode spec out of options: what a first try needs, and no file."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from stx.pipelines.spec.parts import RESERVED_COLUMNS
from stx.pipelines.spec.yaml_text import load_yaml
from stx_core.errors import SpecError
from stx_core.store.corpus.peek import Peek

# Names that ids and texts usually have, the likeliest first.
ID_NAMES = (
    *("id", "_id", "docid", "doc_id", "document_id", "pid", "passage_id", "corpus_id", "corpus-id"),
    *("query_id", "query-id", "qid", "uuid", "key", "url"),
)
TEXT_NAMES = (
    *("text", "content", "contents", "body", "passage", "document", "page_content", "abstract"),
    *("sentence", "description", "query", "question"),
)
TITLE = "title"

_CONDITION = re.compile(
    r"\s*([^=!<>].*?)(?:\s+(is not null|is null|not in|in)\b|\s*(==|!=|<=|>=|<|>|=))\s*(.*)"
)


def condition_of(text: str) -> list[Any]:
    """A condition of ``inputs.filter``: ``lang == en``, ``year >= 2020``, ``lang in [en, de]``.

    Raises:
        SpecError: it has no operator, or no value.
    """
    match = _CONDITION.fullmatch(text)
    column, word, sign, value = match.groups() if match else ("", None, None, "")
    operator = word or sign
    if operator is None or bool(value) == operator.startswith("is "):
        raise SpecError(f"--filter {text}: write it as COLUMN OPERATOR VALUE, such as lang == en")
    operator = "==" if operator == "=" else operator
    return [column, operator, *([load_yaml(value, f"--filter {column}")] if value else [])]


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Options as ``--set`` takes them: ``key=value``, without those that were not given."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def usual_columns(
    names: Sequence[str],
    where: str,
    id_column: str | None = None,
    text_columns: Sequence[str] | None = None,
) -> tuple[str, list[str]]:
    """The columns of ids and of texts by their usual names; a title goes before the text.

    Args:
        names: of all columns.
        where: the corpus, for errors.
        id_column: named already.
        text_columns: named already.

    Returns:
        The column of the ids; those of the texts.

    Raises:
        SpecError: no column has such a name; the line lists them and says which option names one.
    """
    by_lower = {name.lower(): name for name in reversed(names)}
    ids = [id_column or "", *(by_lower[name] for name in ID_NAMES if name in by_lower)]
    title = [by_lower[TITLE]] if TITLE in by_lower else []
    texts = [by_lower[name] for name in TEXT_NAMES if name in by_lower]
    id_column = next(filter(None, ids), None)
    text_columns = list(text_columns or [*title, *texts[:1]])
    has = f"{where} has the columns {', '.join(names) or '(none)'}"
    if not text_columns:
        raise SpecError(f"{has}; none has a usual name of a text: add --text-column NAME")
    if id_column is None:
        raise SpecError(
            f"{has}; none has a usual name of an id: add --id-column NAME, or --set "
            "inputs.id_column=null for ids of file name and row number"
        )
    return id_column, text_columns


def commented_spec(
    source: str, seen: Peek, id_column: str, text_columns: Sequence[str], *, model: str, output: str
) -> str:
    """YAML of an encode spec for a corpus, with what else one may want as comments."""
    others = [name for name in seen.columns if name not in (id_column, *text_columns)]
    free = [name for name in others if name not in RESERVED_COLUMNS]
    example = free[0] if free else "lang"
    columns = "\n".join(f"#   {_yaml(name)}: {kind}" for name, kind in seen.columns.items())
    text = text_columns[0] if len(text_columns) == 1 else list(text_columns)
    csv = f"\n  csv: {{delimiter: {json.dumps(seen.delimiter)}}}" if seen.delimiter else ""
    files = "1 file" if seen.n_files == 1 else f"{seen.n_files:,} files"
    return f"""\
# An encode spec: docs/spec.md has all keys, and `stx spec schema encode` the schema for editors.
# The corpus: {files} of {seen.format}, {seen.n_bytes:,} bytes; columns of the first:
{columns}
inputs:
  path: {_yaml(source)}
  id_column: {_yaml(id_column)}
  text_column: {_yaml(text)}
  # columns: {_yaml(free or ["lang"])}  # copied beside the vectors
  # filter: [[{_yaml(example)}, "==", VALUE]]  # rows to take{csv}
models:
  dense:  # the name of the output; a second model beside it reads the texts once for both
    model: {_yaml(model)}
    # type: sparse
    # dtype: bfloat16  # else what the hardware has units for
output:
  path: {_yaml(output)}  # or s3://, gs://, az://
  # keep_snapshots: 10  # older versions are given up after a commit
# resources:
#   deadline: 55m  # stop in time; the next start goes on
#   cost_per_hour: 1.20  # progress and report then say what it costs
"""


def _yaml(value: str | Sequence[str]) -> str:
    """A value on one line; what YAML would read as something else is quoted."""
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=sys.maxsize)
        .removesuffix("...\n")
        .strip()
    )
