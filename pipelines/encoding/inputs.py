"""The corpus of an encode run: its shards, and how the dataset knows them already."""

from dataclasses import replace

from stx.pipelines.planning.corpus import Corpus, list_corpus, with_held_identities
from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.scope import Scope
from stx.pipelines.planning.time_units import in_microseconds
from stx.pipelines.spec.encode import EncodeSpec
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.snapshot import snapshot_schemas


def list_inputs(spec: EncodeSpec, repairs: frozenset[str]) -> Corpus:
    """Look into each file of the corpus, or of the part of it that the run speaks about.

    Args:
        spec: of the job.
        repairs: URLs of shards, to speak about these only; none for what the spec says.

    Raises:
        InputError: nothing is there, or a file or a column cannot be used.
        SpecError: the backfill does not fit the inputs, or the output lies in them.
    """
    refuse_overlap(spec.output.path, spec.inputs.paths)
    corpus = list_corpus(spec.inputs, spec.backfill)
    if not repairs:
        return corpus
    shards = tuple(shard for shard in corpus.shards if shard.url in repairs)
    return replace(corpus, shards=shards, scope=Scope(urls=repairs))


def as_in_dataset(
    corpus: Corpus, spec: EncodeSpec, state: DatasetState
) -> tuple[Corpus, tuple[str, ...]]:
    """The corpus with identities and types of copied times that the dataset has, where it can.

    Returns:
        The corpus, and lines for the plan about types.
    """
    before = snapshot_schemas(spec.output.path, state.version)
    corpus = with_held_identities(corpus, state.identities)
    return in_microseconds(corpus, spec.inputs, before)
