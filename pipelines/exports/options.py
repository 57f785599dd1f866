"""What the writers of all forms are told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportOptions:
    """Settings; each writer takes those that it knows.

    Attributes:
        source: path of the dataset, for messages.
        tag: name of the ranking in a TREC run file.
    """

    source: str
    tag: str = "stx"
