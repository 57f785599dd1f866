"""The parts of which specs are made: frozen, validated values; unknown keys are refused."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from stx.pipelines.spec.checks import (
    as_duration,
    committable,
    duration_s,
    filters_from_lists,
    number_or_range,
    trusted_code_is_pinned,
    without_secrets,
)
from stx.pipelines.spec.names import NameOf
from stx_core.store.corpus.formats import READERS
from stx_core.store.corpus.json_types import is_text
from stx_core.store.corpus.shards import CsvForm
from stx_core.store.files.s3 import S3Options
from stx_core.store.files.urls import scheme

# Names that stx writes beside the pass-through columns.
RESERVED_COLUMNS = ("id", "embedding", "sparse_embedding", "n_tokens", "truncated", "content_hash")

_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)

Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in", "is null", "is not null"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]


class Part(BaseModel):
    """Base of all parts of a spec: nothing unknown, nothing that changes."""

    # hide_input_in_errors: pydantic would print what the user typed, secrets too.
    # use_attribute_docstrings: they are the descriptions of the JSON Schema.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @field_validator("*")
    @classmethod
    def _fits(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        """Numbers that arithmetic of 64 bits would break on; what a filter compares may be more."""
        numbers = value if isinstance(value, tuple) else (value,)
        if info.field_name != "value" and any(
            isinstance(number, int) and abs(number) >= 1 << 63 for number in numbers
        ):
            raise ValueError("is larger than any number of 64 bits")
        return value


class Filter(Part):
    """A condition on a column; several are joined by "and". Written as ``[column, op, value]``."""

    column: str
    """Of the files, or a hive partition column."""
    op: Operator
    """How the column is compared with the value."""
    value: Any = None
    """A list for `in` and `not in`; none for `is null` and `is not null`."""


Character = Annotated[str, Field(min_length=1, max_length=1, pattern=r"^[^\r\n\x00]$")]


class Csv(Part):
    """What the characters of CSV and TSV files mean."""

    delimiter: Character | None = None
    """Between fields; null: a tab in ``.tsv``, else a comma."""
    quote: Character | None = '"'
    """Around fields with delimiters or line ends in them, doubled within; null: quotes are plain
    text, as in MS MARCO's ``collection.tsv``."""
    escape: Character | None = None
    """In front of a character that is to be plain, as a quote within quotes: a backslash, say."""
    columns: tuple[str, ...] = ()
    """Names of the columns of files without a header line."""

    @model_validator(mode="after")
    def _is_clear(self) -> Self:
        signs = [sign for sign in (self.delimiter, self.quote, self.escape) if sign is not None]
        if len(set(signs)) < len(signs):
            raise ValueError("delimiter, quote and escape must be different characters")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("columns: a name stands twice")
        return self

    @property
    def form(self) -> CsvForm:
        """As the reader takes it."""
        return CsvForm(self.delimiter, self.quote, self.escape, self.columns)


class Inputs(Part):
    """The corpus: where its files are and which columns matter."""

    path: str | tuple[str, ...]
    """File, folder, glob or URL, or a list of them; ``hf-dataset://NAME[/CONFIG[/SPLIT]]``. Paths
    are seen from the folder that the command is started in; ``~`` is the home folder."""
    format: Annotated[str, NameOf(READERS)] | None = None
    """Derived from the file names when not given."""
    id_column: str | None = "id"
    """None: ids are made of shard name and row number."""
    text_column: str | tuple[str, ...] = "text"
    """One column, or several that are joined (a title and a body). Of several, one that is null,
    empty or white space is left out with its separator."""
    text_separator: str = "\n"
    """Between the texts of several columns."""
    columns: tuple[str, ...] = ()
    """Columns that are copied beside the vectors."""
    csv: Csv = Csv()
    """Characters of CSV and TSV files that are not written as usual."""
    max_text_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 64 << 20
    """Rows with a longer text or copied value, or a longer line, go to quarantine: `too_large`."""
    filter: tuple[Filter, ...] = ()
    """Rows to take; also on hive partition columns, whose files are then not opened at all."""
    map: str | None = None
    """``package.module:function`` that is given the rows of each unit, those that pass the filters,
    as a `pyarrow.Table`, and gives one with the same rows in order and the same ids: other texts,
    other or more columns. Runs with ``--allow-code`` only, see docs/extending.md."""
    map_columns: tuple[str, ...] = ()
    """Columns that the function sees beside those of ids, texts and `columns`."""

    _filters = field_validator("filter", mode="before")(filters_from_lists)

    @field_validator("path")
    @classmethod
    def _no_secrets(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, str):
            return without_secrets(value) or ""
        return tuple(without_secrets(url) or "" for url in value)

    @field_validator("columns")
    @classmethod
    def _not_reserved(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if taken := sorted(set(value) & set(RESERVED_COLUMNS)):
            raise ValueError(f"{', '.join(taken)}: stx writes columns of this name; rename yours")
        return value

    @field_validator("map")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        if value is not None and not _PLACE.fullmatch(value):
            raise ValueError("write it as package.module:function")
        return value

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not self.paths or not self.text_columns:
            raise ValueError("path and text_column name at least one each")
        if self.map_columns and self.map is None:
            raise ValueError("map_columns: goes with map")
        names = [
            *self.text_columns,
            *self.columns,
            *self.map_columns,
            *(item.column for item in self.filter),
        ]
        for name in [*names, *([] if self.id_column is None else [self.id_column]), *self.paths]:
            if not is_text(name):
                raise ValueError("a name holds half a character (a lone surrogate)")
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Hashes of specs written before there were these keys stay the same.
        values = dict(serialize(self))
        if self.csv == Csv():
            values.pop("csv", None)
        if self.map is None:
            values.pop("map", None)
        if not self.map_columns:
            values.pop("map_columns", None)
        return values

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def text_columns(self) -> tuple[str, ...]:
        """`text_column` as a tuple."""
        return (self.text_column,) if isinstance(self.text_column, str) else self.text_column


class Model(Part):
    """One encoder and how it is used; its results are the output of the same name."""

    model: str
    """Local folder or hub name."""
    type: Literal["dense", "sparse"] = "dense"
    """Which kind of vectors the model gives."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: the default branch."""
    task: Literal["document", "query"] = "document"
    """Which side of the model the corpus is: chooses the saved prompt and the route."""
    prompt: str | None = None
    """Text before every document, instead of the model's own prompt."""
    max_seq_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens that are read of a text, the rest is cut off; null: what the model says."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """What the model computes in. `auto`: what the current snapshot was written in; for a first one
    bfloat16 where the hardware has units for it, else float32."""
    normalize: bool = False
    """Scale vectors to length 1."""
    truncate_dim: Annotated[int, Field(ge=1)] | None = None
    """Keep only so many of the first dimensions of dense vectors; null: all."""
    store_as: Literal["float32", "float16"] = "float32"
    """What dense vectors are stored as."""
    max_active_dims: Annotated[int, Field(ge=1)] | None = None
    """Keep only so many of the largest entries of sparse vectors; null: what the model says."""
    trust_remote_code: bool = False
    """Run model code that comes with the model: a local folder, or a hub name with its commit."""
    allow_pickle: bool = False
    """Read weights that are a pickle, by a reader that builds tensors and calls nothing."""

    _no_secrets = field_validator("model")(without_secrets)
    _trusted_code_is_pinned = model_validator(mode="after")(trusted_code_is_pinned)


class Dataset(Part):
    """Where snapshots are written, and how many of them stay."""

    path: str
    """Folder or URL of a store that can create an object only if it is absent."""
    keep_snapshots: Annotated[int, Field(ge=1)] | None = None
    """After a commit, give up versions beyond so many of the newest; None: only `stx gc` does."""
    keep_for: str | None = None
    """Duration, like 30d: what was current within it stays, however many versions these are."""

    _can_be_committed_to = field_validator("path")(committable)
    _is_duration = field_validator("keep_for")(as_duration)

    @property
    def keep_for_s(self) -> float | None:
        """`keep_for` in seconds."""
        return None if self.keep_for is None else duration_s(self.keep_for)


class Output(Dataset):
    """Where snapshots are written and what happens to rows that cannot be encoded."""

    on_bad_rows: Literal["quarantine", "fail"] = "quarantine"
    """Rows that cannot be encoded are kept apart with the reason, or end the run."""
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of rows; when more are quarantined the command ends with exit code 3."""
    empty_text: Literal["quarantine", "encode"] = "quarantine"
    """Rows whose text is empty or white space: kept apart, or encoded like any other."""
    dedupe: Literal["unit", "corpus"] = "unit"
    """Where equal texts are encoded once: in each unit, or, by a pass over all hashes first, in all
    units of a run."""
    duplicate_ids: Literal["keep", "fail"] = "keep"
    """Ids that occur twice are reported; "fail" refuses to commit them."""


class Resources(Part):
    """Where and how large. What is not set is derived from the machine and printed in the plan."""

    runner: Literal["auto", "ray", "local"] = "auto"
    """`local` runs the same plan in this process, without Ray, and writes the same files. `auto`
    does so without a cluster, where Ray would start for one unit, few rows, or a single actor."""
    actors: Annotated[int | tuple[int, int] | None, BeforeValidator(number_or_range)] = None
    """A number, or [least, most]: the pool grows and shrinks between them. A range also says that
    nodes may join: the job waits for those of the least number, where a number is refused."""
    cpus_per_actor: Annotated[int, Field(ge=1)] | None = None
    """Cores, which are the threads of its model."""
    gpus_per_actor: Annotated[float, Field(ge=0)] | None = None
    """Where no GPU has joined yet, and the cluster does not tell what it can have, name it."""
    custom: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Ray's custom resources of one actor, to choose its nodes: ``{"accelerator_type:L4": 0.001}``,
    or what nodes were started with (``--resources``)."""
    token_budget: Annotated[int, Field(ge=1)] | None = None
    """Tokens of one batch, padding counted."""
    tokenizers: Annotated[int, Field(ge=0)] | None = None
    """Actors that tokenise, with as many cores as one that encodes; else as many as keep up with
    the GPUs, and none without GPUs: there encoding uses the cores."""
    reproducible: bool = False
    """Fill every batch to the same size, so that a text's vector does not depend on the texts
    beside it: equal to the bit on the same hardware, threads and token budget, where batches are
    packed. Costs time for units of few texts."""
    rows_per_unit: Annotated[int, Field(ge=1)] = 4096
    """Rows of one unit: the atom of writing, retry and resume, and one output file."""
    supervised: bool = True
    """Run models in child processes, so that a text which kills or hangs one costs that text only;
    false: in the actor, or this process, itself."""
    max_units: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many units; the next start goes on."""
    deadline: str | None = None
    """Duration from the start, like 55m or 2h: stop when no further unit would finish before it."""
    order: Literal["corpus", "newest", "oldest"] = "corpus"
    """Which files to encode first, by their time of modification."""
    stall_timeout_s: Annotated[float, Field(gt=0)] = 600
    """A model that finishes no batch for so long is stopped, and the text at fault looked for."""
    cost_per_hour: Annotated[float, Field(ge=0)] | None = None
    """Of all that the run uses, in any currency: progress and report then say what it costs."""

    _is_duration = field_validator("deadline")(as_duration)

    @property
    def deadline_s(self) -> float | None:
        """`deadline` in seconds."""
        return None if self.deadline is None else duration_s(self.deadline)

    def cost(self, seconds: float) -> float | None:
        """Cost of some seconds; None where nobody said what an hour costs."""
        return None if self.cost_per_hour is None else self.cost_per_hour * seconds / 3600


class Store(Part):
    """How ``s3://`` is reached where the environment does not say; never holds credentials."""

    endpoint: str | None = None
    """URL of a server that is not AWS; else AWS_ENDPOINT_URL."""
    region: str | None = None
    """Else AWS_REGION, AWS_DEFAULT_REGION, or what the profile says."""
    profile: str | None = None
    """Of the AWS configuration files; it wins over keys in the environment."""
    anonymous: bool = False
    """Sign nothing: for public buckets."""
    checksums: Literal["when_required", "when_supported"] | None = None
    """Else AWS_REQUEST_CHECKSUM_CALCULATION, else `when_required`, which every server takes."""
    connect_timeout: Annotated[float, Field(gt=0)] = 5.0
    """Seconds to open a connection."""
    request_timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds without an answer."""

    @field_validator("endpoint")
    @classmethod
    def _is_plain_url(cls, value: str | None) -> str | None:
        if value is not None and scheme(value) not in ("http", "https"):
            raise ValueError("write it as http://host:port or https://host")
        return without_secrets(value)

    def options(self) -> S3Options:
        """As the store's clients take them."""
        return S3Options(**self.model_dump())
