"""A version of a dataset, for notebooks and scripts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from stx_core.errors import SpecError
from stx_core.store.data_file import whole
from stx_core.store.files.urls import redact
from stx_core.store.schema import dense_matrix
from stx_core.store.snapshot import SnapshotInfo, open_snapshot, snapshot_info, versions

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Snapshot:
    """One version of a dataset that stx wrote; made by `stx.open`.

    Attributes:
        path: the dataset.
        info: what the log says of the version: ``version``, ``created``, ``outputs``, ``rows`` …
        output: whose rows are read; None for the only one.
    """

    path: str
    info: SnapshotInfo
    output: str | None

    @classmethod
    def at(
        cls, path: "str | os.PathLike[str]", version: int | None, output: str | None
    ) -> "Snapshot":
        """See `stx.open`."""
        path = os.path.expanduser(os.fspath(path))
        info = snapshot_info(path, version)
        if output is not None:
            open_snapshot(path, output=output, version=info.version)  # refuses what is not there
        return cls(path, info, output)

    @property
    def version(self) -> int:
        """Its number."""
        return self.info.version

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs."""
        return tuple(self.info.outputs)

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions of the dataset that can be opened now, oldest first."""
        return tuple(info.version for info in versions(self.path))

    @property
    def dataset(self) -> ds.FileSystemDataset:
        """Its files as a dataset of pyarrow, for scans with filters, DuckDB and the like.

        Raises:
            SpecError: there are several outputs, and none was named.
        """
        return open_snapshot(self.path, output=self.output, version=self.version)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, in the order of the corpus.

        Args:
            columns: their names; None for all.

        Raises:
            SpecError: there is no such column; or there are several outputs, and none was named.
            DamagedFile: a file is gone, or its bytes are not those that were written.
            StoreError: the version was removed meanwhile, or the store fails.
        """
        dataset = self.dataset
        for name in columns or ():
            if name not in dataset.schema.names:
                raise SpecError(
                    f"{redact(self.path)}: no column {name!r}; there is "
                    f"{', '.join(dataset.schema.names)}"
                )
        return whole(dataset, columns)

    def to_polars(self, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """As `to_arrow`, as a data frame of Polars.

        Raises:
            SpecError: as `to_arrow`; or Polars is not installed.
        """
        try:
            import polars as pl
        except ImportError as error:
            raise SpecError("to_polars needs Polars: pip install polars") from error
        frame = pl.from_arrow(self.to_arrow(columns))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_numpy(self) -> np.ndarray:
        """The dense vectors, (N, D), in the order of the rows and the type they are stored in.

        Raises:
            SpecError: the output has none.
            StoreError: as `to_arrow`.
        """
        if "embedding" not in self.dataset.schema.names:
            raise SpecError(
                f"{redact(self.path)}: output {self.output} has no dense vectors; take to_arrow()"
            )
        return dense_matrix(self.to_arrow(["embedding"])["embedding"])

    @overload
    def search(self, queries: str, **options: Any) -> list[dict[str, Any]]: ...  # noqa: ANN401

    @overload
    def search(self, queries: Sequence[str], **options: Any) -> list[list[dict[str, Any]]]: ...  # noqa: ANN401

    def search(self, queries: str | Sequence[str], **options: Any) -> Any:  # noqa: ANN401
        """The rows that score highest for a query, exactly, by the model that wrote them.

        Args:
            queries: a text, or several.
            **options: ``top_k`` (5), ``show`` (copied columns to return; all), ``model`` (its
                folder, if it is not where the snapshot says), ``trust_remote_code``,
                ``allow_pickle``; see `stx.pipelines.search.search_snapshot`.

        Returns:
            Rows, best first, with ``id``, ``score`` and copied columns; of several texts a list for
            each.

        Raises:
            ModelError: the model's files are not those that wrote the snapshot, or need more trust.
            StoreError: as `to_arrow`.
        """
        from stx.pipelines.search import search_snapshot

        texts = [queries] if isinstance(queries, str) else list(queries)
        rows = search_snapshot(
            self.path, texts, output=self.output, version=self.version, **options
        )
        return rows[0] if isinstance(queries, str) else rows
