"""Text of URLs: join, split, and hide secrets. Nothing here touches a store."""

import os
import re

LOCAL = "file"
S3 = ("s3", "s3a")

# file:///path, file://localhost/path and file:/path; file://path too, as a path.
_FILE = re.compile(r"^file:(?://(?:localhost(?=/))?(.*)|(/.*))$", re.IGNORECASE | re.DOTALL)
_START = re.compile(r"\b([A-Za-z][\w+.-]*)://")
_PLACE_END = re.compile(r"[\s/?#'\"]")
_SPACE, _SPACE_OR_QUOTE = re.compile(r"\s"), re.compile(r"[\s'\"]")
_PORT = re.compile(r":\d{0,5}$")
_HOST = re.compile(r"[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]*\]")
# What these name is no host.
_BUCKETS = (*S3, "gs", "gcs", "az", "abfs", "abfss", "hf")
# Upper case and underscores are of S3's oldest buckets, and of secrets.
_BUCKET = re.compile(r"[a-z0-9._-]*")
# abfs://container@account/… uses the place of user names for something public.
_CONTAINER = re.compile(r"(abfss?|wasbs?)://[a-z0-9$._-]*@", re.IGNORECASE)
# Names of access points hold colons, where those of buckets do not.
_ACCESS_POINT = "arn:"

_QUERY = re.compile(r"(\b[\w+.-]+://[^\s'\"?]*)\?\S*=\S*")
# Chat services take messages at URLs whose path is the secret.
_WEBHOOK = re.compile(
    r"\b(https?://[^\s/'\"]+/)(?=\S*hook|services/T|bot\d+:)[^\s'\"]+"
    r"|\b(https?://[^\s/'\"]*hook[^\s/'\"]*/)[^\s'\"]+",
    re.IGNORECASE,
)

_SECRET_PARAMETER = re.compile(
    r"""\b(?P<name>sig|signature|x-(?:amz|goog)-(?:signature|credential|security-token)
    |awsaccesskeyid|aws_(?:access_key_id|secret_access_key|session_token)
    |(?:access|auth|id|refresh|session|hf|bearer|api)_?-?token|token
    |(?:api|access|account|secret|shared_?access|private)_?-?key|sharedaccesssignature
    |passw(?:or)?d|passphrase|pwd|(?:client_?)?secret)
    (?P<mark>["']\s*:\s*|\s*=\s*)(?!…)
    (?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?:\\.|\S)+)""",
    re.IGNORECASE | re.VERBOSE,
)
_HEADER = re.compile(
    r"""\b(?P<name>(?:proxy-)?authorization|x-api-key|api-key)(?P<mark>["']?\s*:\s*["']?)
    (?:(?:basic|bearer|token)\s+)?(?!…)\S+""",
    re.IGNORECASE | re.VERBOSE,
)
_BEARER = re.compile(r"\b(?P<name>bearer)(?P<mark>\s+)(?!…)[\w.~+/=-]{16,}", re.IGNORECASE)

# Variables whose values are hidden wherever they stand.
_SECRET_VARIABLE = re.compile(
    r"(SECRET|TOKEN|PASSW(OR)?D|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_KEY(_ID)?|ACCOUNT_KEY|_SAS"
    r"|CONNECTION_STRING|WEBHOOK(_URL)?)$",
    re.IGNORECASE,
)
WHERE_SECRETS_GO = (
    "leave credentials out of specs and URLs: they are taken from the environment "
    "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, a role of the machine)"
)
_PROXY_VARIABLE = re.compile(r"(HTTPS?|ALL)_PROXY$", re.IGNORECASE)
# Shorter values are placeholders, and would turn up in innocent words.
_SHORTEST_SECRET = 8

# C0 and C1 controls, line and paragraph separators, and marks that turn the writing direction.
CONTROL = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u2028\\u2029\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]"
)


def scheme(url: str) -> str:
    """Scheme in lower case; a plain path has `LOCAL`."""
    head, separator, _ = url.partition("://")
    return head.lower() if separator else LOCAL


def local_path(url: str) -> str:
    """Absolute path of a local URL or plain path, whatever its slashes: one spelling per place.

    Relative ones are seen from the current folder. A ``~`` or ``~user`` at the beginning is a home
    folder, if there is such a user: ``~notes.txt`` and ``./~`` are files.
    """
    path = os.path.abspath(_FILE.sub(r"\1\2", os.path.expanduser(url)))
    # POSIX leaves two slashes at the start to the system; all that stx runs on take them as one.
    return "/" + path.lstrip("/") if path.startswith("//") else path


def normal(url: str) -> str:
    """One spelling per place: local paths become absolute, schemes small, no slash at the end."""
    if scheme(url) == LOCAL:
        return local_path(url)
    return f"{scheme(url)}://{url.partition('://')[2].rstrip('/')}"


def join(url: str, *parts: str) -> str:
    """Put path parts behind a URL, with exactly one slash between them."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def holds_secret(url: str) -> bool:
    """Tell whether a URL carries credentials: a user name or password, a signature, a token."""
    # Behind a slash it is a hive partition: key=value.
    parameters = (match.start() for match in _SECRET_PARAMETER.finditer(url))
    return has_credentials(url) or any(url[start - 1 : start] != "/" for start in parameters)


def has_credentials(url: str) -> bool:
    """Tell whether a user name or a password stands before the host or bucket of a URL.

    True as well where the place itself cannot be one: no bucket has a colon in its name.
    """
    return bool(_credentials(url, doubtful=False))


def credentials_in(url: str) -> str:
    """Say what is wrong with a URL that `holds_secret`, without the secret, and where that goes."""
    in_bucket = "@" not in url and not _SECRET_PARAMETER.search(url)
    problem = "no bucket has ':' in its name" if in_bucket else "holds credentials"
    return f"{redact(url)}: {problem}; {WHERE_SECRETS_GO}"


def redact(text: str) -> str:
    """Hide user names, passwords and signatures of every URL in a text, and keep it one line.

    A secret may hold what ends a part of a URL (AWS makes keys with ``/``), so all up to the last
    ``@`` is hidden where it may be one; rather too much than too little. Also hidden: queries,
    paths of webhooks, and values that are called a password, a key or a token; and wherever they
    stand the values of variables of the environment that are called so.
    """
    for start, end in reversed(_credentials(text, doubtful=True)):
        text = f"{text[:start]}…{text[end:]}"
    text = _WEBHOOK.sub(lambda match: f"{match[1] or match[2]}…", _QUERY.sub(r"\1?…", text))
    for pattern in (_SECRET_PARAMETER, _HEADER, _BEARER):
        text = pattern.sub(r"\g<name>\g<mark>…", text)
    secrets = set()
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name):
            secrets.add(value.strip())
        elif _PROXY_VARIABLE.search(name) and "@" in value:
            user = value.rpartition("@")[0].rpartition("://")[2]
            secrets |= {user, user.partition(":")[2]}
    # The longest first: one may be a part of another.
    for secret in sorted((s for s in secrets if len(s) >= _SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(secret, "…")
    return one_line(text)


def _credentials(text: str, *, doubtful: bool) -> list[tuple[int, int]]:
    """Spans of the credentials in the URLs of a text; they do not overlap.

    Args:
        text: with any number of URLs.
        doubtful: also what may as well be a place with a ``@`` in its path.
    """
    spans: list[tuple[int, int]] = []
    for match in _START.finditer(text):
        container = _CONTAINER.match(text, match.start())
        start = container.end() if container else match.end()
        if spans and start < spans[-1][1]:
            continue
        # A colon at the end is of the sentence that the URL stands in.
        place = _PLACE_END.split(text[start:], maxsplit=1)[0].removesuffix(":")
        # Where nothing speaks of credentials a URL ends at a quote; else it may be a password's.
        ending = _SPACE if ":" in place or "@" in place else _SPACE_OR_QUOTE
        match_end = ending.search(text, start)
        end = match_end.start() if match_end else len(text)
        last = text.rfind("@", start, end)
        if _is_secret(match[1].lower(), place, doubtful, has_at=last >= 0):
            # Without a host behind it the URL was cut off in the middle of the secret.
            spans.append((start, last if last >= 0 else end))
    return spans


def _is_secret(kind: str, place: str, doubtful: bool, *, has_at: bool) -> bool:
    """Tell whether the place of a URL, what is before its first slash, is the start of a secret."""
    if "@" in place:
        return True
    if kind in _BUCKETS:
        if ":" in place:
            return not place.startswith(_ACCESS_POINT)
        return doubtful and has_at and not _BUCKET.fullmatch(place)
    host = _PORT.sub("", place)
    if not _HOST.fullmatch(host):
        return doubtful or (has_at and ":" in host)
    # A port, or a password that begins with a number?
    return doubtful and has_at and host != place


def one_line(text: str) -> str:
    """Escape all that could end a line or steer a terminal: ids and paths may hold anything."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
