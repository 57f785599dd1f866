"""Small JSON documents that know when they were damaged: each carries a digest of itself."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# The nonce is added when the object is created; it says who wrote, not what.
_OUTSIDE = ("digest", "nonce")


def seal(body: Mapping[str, Any]) -> dict[str, Any]:
    """Add the digest."""
    return {**body, "digest": digest(body)}


def is_whole(body: Mapping[str, Any]) -> bool:
    """Tell whether a document is as it was sealed."""
    return body.get("digest") == digest(body)


def digest(body: Mapping[str, Any]) -> str:
    """SHA-256 in hex of all but the digest and the nonce."""
    content = {key: value for key, value in body.items() if key not in _OUTSIDE}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def decode(data: bytes) -> Mapping[str, Any]:
    """Parse a document; what is no JSON object gives an empty one, which is never whole."""
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def canonical_json(value: Any) -> bytes:  # noqa: ANN401
    """JSON with one spelling per value; NaN and non-JSON values are refused."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()
