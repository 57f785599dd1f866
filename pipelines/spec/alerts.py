"""Whom a job tells how it ended."""

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import field_validator

from pipelines.spec.parts import Part, without_secrets
from stx_core.store.files.urls import scheme

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


class Alerts(Part):
    """Whom to tell how a job ended: a command, a URL, or both, see docs/operations.md."""

    command: tuple[str, ...] = ()
    """Run without a shell, with the message as JSON on its standard input."""
    webhook: str | None = None
    """Gets the message as a POST. ``${NAME}`` stands for a variable of the environment."""
    when: tuple[Literal["failure", "refused", "quarantine", "success"], ...] = (
        "failure", "refused", "quarantine"
    )  # fmt: skip

    @field_validator("command")
    @classmethod
    def _no_secrets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for argument in value:
            without_secrets(argument)
        return value

    @field_validator("webhook")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is None:
            return value
        plain = without_secrets(_VARIABLE.sub("", value)) or ""
        if scheme(plain) not in ("http", "https") and not _VARIABLE.match(value):
            raise ValueError("write it as https://host/path, or ${NAME} of the environment")
        return value

    def url(self, environment: Mapping[str, str]) -> str | None:
        """`webhook` with its variables; never to be logged.

        Raises:
            KeyError: there is no such variable.
        """
        if self.webhook is None:
            return None
        return _VARIABLE.sub(lambda found: environment[found[0][2:-1]], self.webhook)
