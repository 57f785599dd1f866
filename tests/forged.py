"""Two texts with the same xxh3, of 128 and of 64 bits: what somebody who may write texts can make.

In each of two stripes, four bytes of a lane equal those of the hash's secret. Their product with
the four bytes behind them is then zero, and what these add to a sum is made up for in the other.
"""

import xxhash

_LENGTH = 704
# Where the four bytes of the secret start, and a byte before them that makes them UTF-8.
_PLACES = ((47, b"\xc3\xb8\x08Ft", b""), (9 * 64 + 48, b"\xc8\x9f~\xc9", b"\x80"))


def forged_pair():
    """Texts that differ; their words are ``Ftbbbb`` in one and ``Ftbbbc`` in the other."""
    pair = _text(b"bbbb", b"bbbc"), _text(b"bbbc", b"bbbb")
    one, other = (text.encode() for text in pair)
    assert one != other
    assert xxhash.xxh3_128_digest(one) == xxhash.xxh3_128_digest(other)
    assert xxhash.xxh3_64_digest(one) == xxhash.xxh3_64_digest(other)
    return pair


def _text(*ends):
    data = bytearray(b" " * _LENGTH)
    for (start, secret, after), end in zip(_PLACES, ends, strict=True):
        written = secret + after + end[len(after) :]
        data[start : start + len(written)] = written
    return data.decode()
