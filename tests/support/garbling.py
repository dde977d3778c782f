"""Damage of files for tests: bytes changed, put in, left out, or set to what lengths and counts may overflow by."""

import random as of_python

import numpy as np


def garble(content: bytes, random: np.random.Generator) -> bytes:
    """Change a few places of a file, more of them near its end, where many formats keep their tables."""
    garbled = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 4, 16])):
        near_end = random.random() < 0.3
        at = max(0, len(garbled) - 1 - random.integers(200)) if near_end else random.integers(max(len(garbled), 1))
        match random.integers(5):
            case 0 | 1:
                garbled[at : at + 1] = bytes(random.integers(256, size=1, dtype=np.uint8))
            case 2:
                garbled[at : at + random.integers(9)] = random.bytes(random.integers(9))
            case 3:
                del garbled[at : at + random.integers(1, 50)]
            case 4:
                garbled[at : at + 4] = (2**31 - 1).to_bytes(4, "little")
    return bytes(garbled)


def flip(content: bytes, rng: of_python.Random) -> bytes:
    """Change one bit of a file; one that is empty gets a byte."""
    if not content:
        return b"x"
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
