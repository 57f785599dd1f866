"""Text of URLs: join, split, and hide secrets. Nothing here touches a store."""

import os
import re

LOCAL = "file"
S3 = ("s3", "s3a")

_SECRET_QUERY = re.compile(r"(\b[\w+.-]+://[^\s'\"?]*)\?[^\s'\"]*=[^\s'\"]*")
# C0 and C1 controls, line and paragraph separators, and marks that turn the writing direction.
_CONTROL = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]"
)
# abfs://container@account/… uses the place of user names for something public.
_USER = re.compile(r"\b((?!abfss?|wasbs?)[\w+.-]+)://[^/@\s'\"]+@")

_SECRET_PARAMETER = re.compile(
    r"\b(sig|x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|signature"
    r"|access_?token|password|secret)=(?!…)[^&\s'\"]+",
    re.IGNORECASE,
)
_SECRET_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_SECRET",
    "HF_TOKEN",
    "QDRANT_API_KEY",
)
# Shorter values are placeholders, and would turn up in innocent words.
_SHORTEST_SECRET = 8


def scheme(url: str) -> str:
    """Scheme in lower case; a plain path has `LOCAL`."""
    head, found, _ = url.partition("://")
    return head.lower() if found else LOCAL


def local_path(url: str) -> str:
    """Absolute path of a local URL or plain path."""
    return os.path.abspath(url.removeprefix("file://"))


def normal(url: str) -> str:
    """One spelling per place: local paths become absolute, no slash at the end."""
    return local_path(url) if scheme(url) == LOCAL else url.rstrip("/")


def join(url: str, *parts: str) -> str:
    """Put path parts behind a URL, with exactly one slash between them."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def holds_secret(url: str) -> bool:
    """Whether a URL carries credentials: a user name or password, a signature, a token."""
    return bool(_USER.search(url) or _SECRET_PARAMETER.search(url))


def redact(text: str) -> str:
    """Hide user names, passwords and signatures of every URL in a text, and keep it one line.

    The values of the variables that hold credentials are hidden wherever they stand.
    """
    for name in _SECRET_VARIABLES:
        if len(value := os.environ.get(name, "")) >= _SHORTEST_SECRET:
            text = text.replace(value, "…")
    text = _SECRET_QUERY.sub(r"\1?…", _USER.sub(r"\1://…@", text))
    return one_line(_SECRET_PARAMETER.sub(r"\1=…", text))


def one_line(text: str) -> str:
    """Escape all that could end a line or steer a terminal: ids and paths may hold anything."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
