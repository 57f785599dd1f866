"""An output that holds vectors, as the writers of engines see it: batches of ids and vectors.

N rows of a batch, D width.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import xxhash

from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.spec.parts import RESERVED_COLUMNS
from stx_core.errors import InputError, SpecError
from stx_core.store.data_file import read_batches
from stx_core.store.files.urls import redact
from stx_core.store.schema import dense_matrix, sparse_csr

Kind = Literal["dense", "sparse"]
COLUMN: dict[str, Kind] = {"embedding": "dense", "sparse_embedding": "sparse"}

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Batch:
    """Some rows, in the order of the dataset.

    Attributes:
        ids: N strings.
        payload: N rows of the copied columns that go along.
        vectors: N vectors, as the dataset has them.
    """

    ids: pa.Array
    payload: pa.Table
    vectors: pa.Array

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def matrix(self) -> np.ndarray:
        """(N, D) float32; no copy where the dataset holds float32."""
        return dense_matrix(self.vectors).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Vectors:
    """One output, or some of its files.

    Attributes:
        dataset: the files.
        file_rows: rows of each of them.
        form: name of the form that is written, for messages.
        options: what the writer was told.
        column: name of the vectors' column.
        kind: of the vectors.
        vector_type: their Arrow type.
        dim: width of dense vectors, 0 of sparse ones.
        is_half: they are float16.
        similarity: by what the model compares: dot, cosine, euclidean or manhattan.
        payload: fields of the copied columns that go along.
    """

    dataset: ds.FileSystemDataset
    file_rows: tuple[int, ...]
    form: str
    options: ExportOptions
    column: str
    kind: Kind
    vector_type: pa.DataType
    dim: int
    is_half: bool
    similarity: str
    payload: tuple[pa.Field, ...]

    @property
    def n_rows(self) -> int:
        """Rows of all files."""
        return sum(self.file_rows)

    def rows_in(self, n_bytes: int) -> int:
        """Number of rows that take so many bytes in the dataset, at least one."""
        return max(1, n_bytes * max(1, self.n_rows) // max(1, int(self.options.facts["bytes"])))

    def metric(self, names: dict[str, str]) -> str:
        """The engine's name of the similarity.

        Raises:
            SpecError: the engine does not have it.
        """
        if self.similarity not in names:
            raise SpecError(
                f"{self.form} cannot compare by {self.similarity}, as the model of "
                f"{redact(self.options.source)} does; it has {', '.join(names)}"
            )
        return names[self.similarity]

    def batches(self) -> Iterator[Batch]:
        """All rows in order, some thousand at a time."""
        names = [field.name for field in self.payload]
        columns = ["id", *names, self.column]
        for batch in read_batches(self.dataset, columns, _ROWS_AT_ONCE):
            if len(batch):
                ids = batch.column("id").cast(pa.string())
                payload = pa.Table.from_batches([batch]).select(names)
                yield Batch(ids, payload, batch.column(self.column))

    def parts(self, rows_per_part: int) -> list["Part"]:
        """Cut into runs of whole files, as few as have this many rows, the last one excepted.

        The same snapshot and options give the same parts under the same names, and a part of any
        other content has another name.
        """
        parts: list[Part] = []
        fragments, start = list(self.dataset.get_fragments()), 0
        for stop in range(1, len(fragments) + 1):
            n_rows = sum(self.file_rows[start:stop])
            if n_rows >= rows_per_part or stop == len(fragments):
                files = replace(
                    self,
                    dataset=ds.FileSystemDataset(
                        fragments[start:stop],
                        self.dataset.schema,
                        self.dataset.format,
                        self.dataset.filesystem,
                    ),
                    file_rows=self.file_rows[start:stop],
                )
                parts.append(Part(f"part-{len(parts):05}-{files.digest()}", files))
                start = stop
        return parts

    def digest(self) -> str:
        """Hash of what these rows become in this form, 16 hexadecimal digits.

        Names of data files are never used twice, so they stand for what is in them.
        """
        names = [file.rsplit("/", 1)[-1] for file in self.dataset.files]
        options = self.options
        fields = [str(field) for field in self.payload]
        settings = (self.form, fields, options.name, options.vocabulary)
        return xxhash.xxh3_64_hexdigest(repr((settings, names)).encode())


@dataclass(frozen=True)
class Part:
    """Some files of an output that are written together, and the name of the result."""

    name: str
    vectors: Vectors


def open_vectors(
    dataset: ds.FileSystemDataset, options: ExportOptions, form: str, *takes: Kind
) -> Vectors:
    """See a dataset as vectors.

    Args:
        dataset: one output of a snapshot.
        options: of the export.
        form: its name, for messages.
        takes: kinds of vectors that the form has room for.

    Raises:
        SpecError: the output holds no vectors, or not of this kind; or there is no such column.
    """
    source, names = redact(options.source), dataset.schema.names
    column = next((name for name in COLUMN if name in names), None)
    if column is None:
        raise SpecError(f"{source}: no vectors in this output; {form} takes {' or '.join(takes)}")
    if COLUMN[column] not in takes:
        raise SpecError(
            f"{source}: this output is {COLUMN[column]}; {form} takes {' or '.join(takes)} vectors"
        )
    copied = [name for name in names if name not in RESERVED_COLUMNS]
    chosen = copied if options.columns is None else list(dict.fromkeys(options.columns))
    if missing := [name for name in chosen if name not in copied]:
        raise SpecError(f"{source}: no copied column {missing[0]!r}; there are {copied}")
    kind, vector_type = COLUMN[column], dataset.schema.field(column).type
    return Vectors(
        dataset=dataset,
        file_rows=options.file_rows,
        form=form,
        options=options,
        column=column,
        kind=kind,
        vector_type=vector_type,
        dim=vector_type.list_size if kind == "dense" else 0,
        is_half=kind == "dense" and pa.types.is_float16(vector_type.value_type),
        similarity=str(options.facts["similarity"]),
        payload=tuple(dataset.schema.field(name) for name in chosen),
    )


def check_ids(
    batch: Batch, form: str, *, max_bytes: int | None = None, plain_ascii: bool = False
) -> None:
    """Check that an engine takes the ids of some rows.

    Args:
        batch: the rows.
        form: name of the engine, for messages.
        max_bytes: of UTF-8 that an id may have.
        plain_ascii: whether all of them must be ASCII.

    Raises:
        InputError: an id is empty or null, too long, or of other characters; names it.
    """
    sizes = pc.fill_null(pc.binary_length(batch.ids.cast(pa.binary())), 0)
    checks = [(pc.equal(sizes, 0), "is empty")]
    if max_bytes is not None:
        checks.append((pc.greater(sizes, max_bytes), f"has more than {max_bytes} bytes"))
    if plain_ascii:
        characters = pc.fill_null(pc.utf8_length(batch.ids), 0)
        checks.append((pc.not_equal(sizes, characters), "has other characters than ASCII"))
    for wrong, problem in checks:
        place = pc.index(wrong, True).as_py()
        if place >= 0:
            name = batch.ids[place].as_py()
            shown = f"{name[:60]!r}…" if name and len(name) > 60 else repr(name)
            raise InputError(f"id {shown}: {problem}, which {form} does not take; give it another")


def positive(batch: Batch, form: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sparse vectors for engines that know positive weights only, as `sparse_csr`; zeros go.

    Raises:
        InputError: a weight is negative.
    """
    offsets, indices, values = sparse_csr(batch.vectors)
    if (values < 0).any():
        row = int(np.searchsorted(offsets, int((values < 0).argmax()), "right")) - 1
        raise InputError(f"id {batch.ids[row].as_py()!r}: a weight is negative; {form} takes none")
    return without_zeros(offsets, indices, values)


def without_zeros(
    offsets: np.ndarray, indices: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same vectors without entries of value 0."""
    non_zero = values != 0
    if non_zero.all():
        return offsets, indices, values
    ends = np.concatenate([[0], np.cumsum(non_zero)])[offsets]
    return ends, indices[non_zero], values[non_zero]


def sparse_names(options: ExportOptions) -> pa.Array | None:
    """Names of sparse dimensions, by index: tokens; None where there is no vocabulary.

    Raises:
        SpecError: the vocabulary cannot be read.
    """
    if options.vocabulary is None:
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(os.path.expanduser(options.vocabulary))
    except Exception as error:  # the library raises nothing narrower
        raise SpecError(f"{options.vocabulary}: no tokenizer.json ({error})") from error
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    tokens = [tokenizer.id_to_token(index) for index in range(size)]
    return pa.array([str(i) if token is None else token for i, token in enumerate(tokens)])


def named(indices: np.ndarray, names: pa.Array | None) -> pa.Array:
    """(T,) names of sparse dimensions: tokens, or their numbers where there are no names.

    Raises:
        SpecError: the vocabulary is smaller than the vectors are wide.
    """
    if names is None:
        return pa.array(indices).cast(pa.string())
    if indices.max(initial=0) >= len(names):
        raise SpecError(
            f"--vocabulary has {len(names)} tokens, but there is a dimension {indices.max()}; "
            "take the tokenizer.json of the model that wrote the vectors"
        )
    return pc.take(names, pa.array(indices))
