"""Hashes that stand for what was hashed, whoever made it."""

import hashlib

SIZE = 32


def blake2b(value: bytes) -> bytes:
    """32 bytes that no two values share.

    Not xxh3, which is for accidents: who may write texts or ids can make two with the same one, and
    one would get what belongs to the other. 26 ms for 4,096 texts of 800 bytes.
    """
    return hashlib.blake2b(value, digest_size=SIZE).digest()
