"""Alerts about how a job ended. A spec asks for them: the command line says who may be told."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, field_validator, model_validator

from stx.pipelines.spec.checks import without_secrets
from stx.pipelines.spec.parts import Part
from stx_core.errors import SpecError
from stx_core.store.files.urls import scheme

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


class Alerts(Part):
    """Whom to tell how a job ended, where the command line says ``--allow-alerts``.

    A command, a URL, or both, see docs/operations.md.
    """

    command: tuple[str, ...] = ()
    """Run without a shell, with the message as JSON on its standard input."""
    webhook: str | None = None
    """Gets the message as a POST. ``${NAME}`` stands for a variable of the environment."""
    webhook_file: str | None = None
    """Instead: a file whose first line is the URL, such as a mounted secret."""
    when: tuple[Literal["failure", "refused", "quarantine", "success"], ...] = (
        "failure", "refused", "quarantine"
    )  # fmt: skip
    """Endings to tell of. Refused: a check did not let the snapshot pass. Quarantine: more rows
    than `output.max_quarantined` went there."""

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

    @model_validator(mode="after")
    def _is_one(self) -> "Alerts":
        if self.webhook and self.webhook_file:
            raise ValueError("webhook and webhook_file: name one of them")
        return self

    def url(self, environment: Mapping[str, str]) -> str | None:
        """The URL, with its variables; never to be logged.

        Raises:
            KeyError: there is no such variable.
            OSError: the file cannot be read.
            ValueError: it is no text.
        """
        if self.webhook_file is not None:
            lines = Path(self.webhook_file).expanduser().read_text().splitlines()
            return lines[0].strip() if lines else ""
        if self.webhook is None:
            return None
        return _VARIABLE.sub(lambda match: environment[match[0][2:-1]], self.webhook)


def refuse_alerts(spec: BaseModel, source: str) -> None:
    """Check that a spec whose alerts nobody allowed has none: it may be somebody else's.

    Args:
        spec: of any job, or a flow.
        source: names it in errors.

    Raises:
        SpecError: it has.
    """
    alerts = getattr(spec, "alerts", None)
    if isinstance(alerts, Mapping):
        alerts = Alerts.model_validate(alerts)
    if alerts and (alerts.command or alerts.webhook or alerts.webhook_file):
        raise SpecError(
            f"{source}: alerts: a spec may run a program and send variables of the environment "
            "only with --allow-alerts; add it if you trust this spec, or take its alerts out"
        )
