"""Points in a collection of Qdrant, on a server or in a local folder."""

import json
import os
import uuid
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from stx.pipelines.exports.engines import load_engine
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.payload import payload_json
from stx.pipelines.exports.vectors import Batch, Vectors, open_vectors, without_zeros
from stx_core.errors import SpecError, StoreError
from stx_core.store.files.urls import LOCAL, local_path, redact, scheme
from stx_core.store.schema import sparse_csr

# Payload key: which part of which export a point came with.
PART_KEY = "stx_part"

# Of some MB as JSON at usual widths; a server takes 32 MB at once.
_POINTS_AT_ONCE = 256
# A namespace of our own, so that ids of other tools do not meet ours.
_NAMESPACE = uuid.UUID("8f9a1a0e-6f0c-5d0f-9d4e-3c3d9a8f5b11")

_DISTANCES = {"cosine": "COSINE", "dot": "DOT", "euclidean": "EUCLID", "manhattan": "MANHATTAN"}


def point_id(document_id: str) -> str:
    """The id of a document's point: Qdrant takes numbers and UUIDs only."""
    return str(uuid.uuid5(_NAMESPACE, document_id))


def write_qdrant(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Upsert vectors into a collection, which is made if it is not there; gives the rows.

    The vector is called as the column: ``embedding`` or ``sparse_embedding``. The payload has
    ``id`` and the copied columns, and under ``stx_part`` which file of the dataset it came from. By
    that a second start, or an export of the next snapshot, passes over files whose points are all
    there. Points of documents that left the dataset stay. Of ids that occur twice the last wins.

    Args:
        dataset: dense or sparse.
        destination: URL of a server or path of a folder, a slash, and the name of the collection.
            ``QDRANT_API_KEY`` is the key. A local folder is for small sets: Qdrant holds it in
            memory.
        options: of the export.

    Raises:
        SpecError: the collection has no such vector.
        StoreError: the server does not answer, or refuses.
    """
    vectors = open_vectors(dataset, options, "qdrant", "dense", "sparse")
    client_module = load_engine("qdrant_client", "qdrant", "qdrant")
    models = load_engine("qdrant_client.models", "qdrant", "qdrant")
    exceptions = load_engine("qdrant_client.http.exceptions", "qdrant", "qdrant")
    address, _, collection = destination.rstrip("/").rpartition("/")
    if not collection or not address:
        raise SpecError(f"{redact(destination)}: expected FOLDER/COLLECTION or URL/COLLECTION")
    is_local = scheme(address) == LOCAL
    try:
        if is_local:
            client = client_module.QdrantClient(path=local_path(address))
        else:
            # The check of versions only warns, and would do so before the real error.
            key = os.environ.get("QDRANT_API_KEY")
            client = client_module.QdrantClient(url=address, api_key=key, check_compatibility=False)
    except RuntimeError as error:
        raise StoreError(f"{redact(address)}: Qdrant: {redact(str(error))}") from error
    try:
        sink = _Sink(client, models, collection, vectors)
        sink.prepare(indexed=not is_local)
        sink.write()
    except exceptions.ApiException as error:
        raise StoreError(f"{redact(address)}: Qdrant: {redact(str(error))[:300]}") from error
    finally:
        client.close()
    return vectors.n_rows


@dataclass(frozen=True)
class _Sink:
    """A collection, as one output goes into it.

    Attributes:
        client: of Qdrant.
        models: the module of its types.
        collection: its name.
        vectors: the output.
    """

    client: Any
    models: Any
    collection: str
    vectors: Vectors

    def prepare(self, *, indexed: bool) -> None:
        """Make the collection, or check that it has the vector.

        Args:
            indexed: whether counting by part needs an index; Qdrant has none in a local folder.

        Raises:
            SpecError: it does not have it.
        """
        models, vectors, name = self.models, self.vectors, self.vectors.column
        if vectors.kind == "sparse":
            vectors.metric({"dot": "DOT"})
            params = models.SparseVectorParams()
            config = {"vectors_config": {}, "sparse_vectors_config": {name: params}}
        else:
            distance = models.Distance[vectors.metric(_DISTANCES)]
            datatype = models.Datatype.FLOAT16 if vectors.is_half else models.Datatype.FLOAT32
            params = models.VectorParams(size=vectors.dim, distance=distance, datatype=datatype)
            config = {"vectors_config": {name: params}}
        if not self.client.collection_exists(self.collection):
            self.client.create_collection(self.collection, **config)
            if indexed:
                self.client.create_payload_index(self.collection, PART_KEY, "keyword")
            return
        collection = self.client.get_collection(self.collection).config.params
        if vectors.kind == "sparse":
            has_vector = name in (collection.sparse_vectors or {})
        else:
            dense = collection.vectors if isinstance(collection.vectors, dict) else {}
            has_vector = name in dense and dense[name].size == vectors.dim
        if not has_vector:
            raise SpecError(
                f"collection {self.collection!r} has no vector {name!r} of this size; export to "
                "another collection"
            )

    def write(self) -> None:
        """Upsert the files whose points are not all there."""
        for part in self.vectors.parts(rows_per_part=1):
            match = self.models.MatchValue(value=part.name)
            condition = self.models.FieldCondition(key=PART_KEY, match=match)
            where = self.models.Filter(must=[condition])
            n_points = self.client.count(self.collection, count_filter=where, exact=True).count
            if n_points < part.vectors.n_rows:
                for batch in part.vectors.batches():
                    for start in range(0, len(batch), _POINTS_AT_ONCE):
                        chunk = slice(start, start + _POINTS_AT_ONCE)
                        self._upsert(
                            part.name,
                            Batch(batch.ids[chunk], batch.payload[chunk], batch.vectors[chunk]),
                        )

    def _upsert(self, part: str, batch: Batch) -> None:
        if pa.types.is_fixed_size_list(batch.vectors.type):
            values = batch.matrix.tolist()
        else:
            offsets, indices, weights = without_zeros(*sparse_csr(batch.vectors))
            values = [
                self.models.SparseVector(
                    indices=indices[start:stop].tolist(), values=weights[start:stop].tolist()
                )
                for start, stop in zip(offsets[:-1], offsets[1:], strict=True)
            ]
        ids = batch.ids.to_pylist()
        payloads = [
            {"id": name, **json.loads(text), PART_KEY: part}
            for name, text in zip(ids, payload_json(batch), strict=True)
        ]
        points = self.models.Batch(
            ids=[point_id(name) for name in ids],
            payloads=payloads,
            vectors={self.vectors.column: values},
        )
        self.client.upsert(self.collection, points=points, wait=True)
