"""A random sample of an output, encoded again and compared with what the snapshot holds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from stx.pipelines.encoding.stages import Encoder, encode_texts
from stx.pipelines.encoding.stored_encoder import stored_encoder
from stx.pipelines.models.settings import VECTOR_COLUMN, EncoderSettings
from stx.pipelines.planning.corpus import earlier_content_hashes, read_unit, schema_of
from stx.pipelines.running import unit_table
from stx.pipelines.spec.code import refuse_code
from stx.pipelines.spec.file import read_spec
from stx_core.errors import InputError, StoreError
from stx_core.search.sparse_rows import SparseRows, to_coo
from stx_core.store.corpus.arrow_dataset import is_dataset
from stx_core.store.corpus.readers import find_files, format_of, shard_rows
from stx_core.store.corpus.units import Unit
from stx_core.store.data_file import read_columns
from stx_core.store.files.urls import join, redact
from stx_core.store.schema import dense_matrix, sparse_csr
from stx_core.store.snapshot import read_manifest, snapshot_info

# Machines, batch compositions and bfloat16 move vectors by less than this; other weights, another
# prompt or mixed-up rows by far more.
MIN_COSINE = 0.999
MAX_DIFFERENCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """Outcome of encoding rows of one output again.

    Attributes:
        output: its name.
        n_rows: rows that were encoded again.
        cosines: (n_rows,) of the stored vectors with the new ones; None for sparse outputs.
        difference: largest absolute difference of a sparse weight; None for dense outputs.
        n_foreign: rows whose text is not in the shard that they are said to come from.
        unread: why rows could not be read again, one line per row: their input is not the one
            that was encoded any more.
    """

    output: str
    n_rows: int
    cosines: np.ndarray | None
    difference: float | None
    n_foreign: int
    unread: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """True if every row that could be read again is as it was."""
        cosines_agree = self.cosines is None or bool((self.cosines >= MIN_COSINE).all())
        return cosines_agree and (self.difference or 0) <= MAX_DIFFERENCE and not self.n_foreign

    def __str__(self) -> str:
        text = f"{self.output}: {self.n_rows} rows encoded again"
        if self.cosines is not None and self.n_rows:
            text += f", cosine {self.cosines.mean():.6f} on average, {self.cosines.min():.6f} worst"
        if self.difference is not None and self.n_rows:
            text += f", weights differ by {self.difference:.2g} at most"
        if self.n_foreign:
            text += f"; {self.n_foreign} have a text that is not in their shard"
        if self.unread:
            text += f"; {len(self.unread)} not compared, for example: {self.unread[0]}"
        return text


def encode_again(
    root: str,
    n_rows: int,
    *,
    output: str | None = None,
    version: int | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    allow_code: bool = False,
    seed: int | None = None,
) -> Iterator[Comparison]:
    """Read the texts of random rows again, encode them as the snapshot says, compare.

    Args:
        root: the dataset.
        n_rows: rows of each output.
        output: None for all outputs.
        version: None for the current one.
        model: folder of the model, if it is not where the snapshot says.
        trust_remote_code: run code of the model's folder, if the output was written that way.
        allow_pickle: load pickled weights, if the output was written that way.
        allow_code: run the function that its ``inputs.map`` named, as it is now.
        seed: of the choice of rows; None for other rows each time.

    Raises:
        SpecError: it was encoded with a map, and code is not allowed.
        StoreError: there is no such snapshot or output, or a file cannot be read.
        ModelError: the model's files are not those that wrote the snapshot, or need more trust.
    """
    outputs = snapshot_info(root, version).outputs
    if output is not None and output not in outputs:
        raise StoreError(f"{redact(root)}: no output {output!r}; name one of {', '.join(outputs)}")
    manifest = read_manifest(root, version)
    for name in outputs if output is None else [output]:
        files = manifest.filter(pc.equal(manifest["output"], name))
        settings = stored_encoder(
            outputs[name],
            redact(root),
            model=model,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
        chosen = _choose(files, n_rows, seed)
        rows, unread = _sample(
            root, files, VECTOR_COLUMN[settings.type], chosen=chosen, allow_code=allow_code
        )
        yield _compare(name, rows, unread, settings)


def _choose(manifest: pa.Table, n_rows: int, seed: int | None) -> np.ndarray:
    """(N,) int64, ascending: places of random rows of all files."""
    total = pc.sum(manifest["rows_out"]).as_py() or 0
    random = np.random.default_rng(seed)
    return np.sort(random.choice(total, min(n_rows, total), replace=False))


def _sample(
    root: str, manifest: pa.Table, vector: str, *, chosen: np.ndarray, allow_code: bool
) -> tuple[list[pa.Table], list[str]]:
    """Tables of vector and text, text null where the shard has none of that hash; and problems."""
    ends = np.cumsum(manifest["rows_out"].to_numpy())
    units = np.searchsorted(ends, chosen, side="right")
    tables: list[pa.Table] = []
    unread: list[str] = []
    for unit in np.unique(units).tolist():
        row = manifest.slice(unit, 1).to_pylist()[0]
        rows = chosen[units == unit] - (ends[unit] - row["rows_out"])
        try:
            texts_by_hash = _read_texts(root, row, allow_code)
        except (InputError, FileNotFoundError) as error:
            unread += [redact(str(error))] * len(rows)
            continue
        stored = read_columns(join(root, row["file"]), ["content_hash", vector], rows)
        texts = [texts_by_hash.get(hash_) for hash_ in stored["content_hash"].to_pylist()]
        columns = {"vector": stored[vector], "text": pa.array(texts, pa.string())}
        tables.append(pa.table(columns))
    return tables, unread


def _read_texts(root: str, row: Mapping[str, Any], allow_code: bool) -> dict[str, str]:  # noqa: FBT001
    """Texts of a unit by their hash, read from the shard that was encoded."""
    spec = read_spec(root, row["run"])
    inputs = spec.inputs
    if inputs.map is None:
        inputs = inputs.model_copy(update={"id_column": None, "columns": ()})
    elif not allow_code:
        refuse_code(spec, redact(root))
    kind = inputs.format or ("arrow" if is_dataset(row["url"]) else format_of(row["url"]))
    unit = Unit(0, row["url"], row["identity"], kind, start=row["start"], stop=row["stop"])
    schema = pa.schema([(name, pa.string()) for name in inputs.text_columns])
    if inputs.map is not None:
        (file,) = find_files(row["url"], kind)
        columns = [*inputs.text_columns, *inputs.columns, *inputs.map_columns]
        shard = shard_rows(file, kind, inputs.max_text_bytes, columns, inputs.csv.form)
        schema = schema_of([shard], inputs)
    table = read_unit(unit, schema, inputs, spec.output)
    texts = table.column(unit_table.TEXT)
    # Files of an earlier stx have its hashes; a text that only shares one has another vector.
    both = (table.column(unit_table.HASH), earlier_content_hashes(texts))
    return {
        hashed: text
        for hashes in both
        for hashed, text in zip(hashes.to_pylist(), texts.to_pylist(), strict=True)
    }


def _compare(
    output: str, tables: list[pa.Table], unread: list[str], settings: EncoderSettings
) -> Comparison:
    cosines = difference = None
    n_rows = n_foreign = 0
    if tables:
        rows = pa.concat_tables(tables)
        n_foreign = rows["text"].null_count
        rows = rows.filter(pc.is_valid(rows["text"]))
        n_rows = len(rows)
        again = encode_texts(Encoder(settings), rows["text"])["vector"]
        if settings.type == "sparse":
            sides = [SparseRows(*sparse_csr(column)) for column in (rows["vector"], again)]
            width = 1 + max(int(side.indices.max(initial=0)) for side in sides)
            before, after = (to_coo(side, width, torch.float64) for side in sides)
            values = (before - after).coalesce().values()
            difference = float(values.abs().max()) if len(values) else 0.0
        else:
            cosines = _cosines(dense_matrix(rows["vector"]), dense_matrix(again))
    return Comparison(
        output,
        n_rows,
        cosines,
        difference=difference,
        n_foreign=n_foreign,
        unread=tuple(unread),
    )


def _cosines(stored_ND: np.ndarray, again_ND: np.ndarray) -> np.ndarray:
    """(N,) cosines of rows; 1 where both are zero (a text of unknown words, in a static model)."""
    stored_ND, again_ND = stored_ND.astype(np.float64), again_ND.astype(np.float64)
    lengths = np.linalg.norm(stored_ND, axis=1) * np.linalg.norm(again_ND, axis=1)
    dots = np.einsum("nd,nd->n", stored_ND, again_ND)
    equal: np.ndarray = (stored_ND == again_ND).all(axis=1).astype(np.float64)
    np.divide(dots, lengths, out=equal, where=lengths > 0)
    return equal
