"""How much there is in a body, before it is decoded.

A byte on the wire may become a list of its own, of 56 bytes and with work for the garbage
collector. So a body may hold so many values, and no more, and a list or dict counts as many. That
is counted without making any of them. A body too small to hold more needs no look.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CONTAINER_WEIGHT", "Allowance"]

#: The least that is allowed, however small messages must be; and bytes that each value has of the
#: largest message. So a message of 8 MiB takes 20 receivers half a second of one core at most.
LEAST_WEIGHT: Final = 2**18
VALUE_SHARE: Final = 32

#: What a list or dict counts, beside what is in it: to make it, and to look at it when garbage is
#: collected, takes as long as that many numbers or words.
CONTAINER_WEIGHT: Final = 32

#: Bytes of JSON that are taken apart at a time.
CHUNK: Final = 2**16

# MessagePack specification, Formats.
_CONTAINERS = bytes((*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF))
#: Bytes of the length that follows, of those values that have one; and of an extension's type.
_LENGTHS = {
    **{0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)},
    **{0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)},
}
_FIXED = {
    **{0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9},
    **{0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18, 0xDC: 3, 0xDD: 5, 0xDE: 3, 0xDF: 5},
    **{0xA0 + length: 1 + length for length in range(32)},
    **dict.fromkeys(_LENGTHS, 0),
}
#: Bytes of a value by its first one, a list's or dict's without what is in it; 0: a length follows.
_STEPS = bytes(_FIXED.get(first, 1) for first in range(256))
_IS_CONTAINER = bytes(first in _CONTAINERS for first in range(256))


class Allowance:
    """What a body may hold.

    Args:
        size: Bytes of the largest message.

    Attributes:
        weight: How many values, with the keys of dicts; a list or dict is `CONTAINER_WEIGHT` of them.
    """

    def __init__(self, size: int) -> None:
        self.weight = max(LEAST_WEIGHT, size // VALUE_SHARE)

    def __repr__(self) -> str:
        return f"<Allowance {self.weight}>"

    @property
    def harmless(self) -> int:
        """Bytes that cannot hold more, whatever they are."""
        return self.weight // CONTAINER_WEIGHT

    def admits_msgpack(self, data: bytes) -> bool:
        """Tell whether a msgpack body holds no more; what is no msgpack holds what comes first."""
        size, weight = len(data), self.weight
        if size <= weight:
            # Text and numbers have such bytes too, so this is the most that there can be.
            most = size - len(data.translate(None, _CONTAINERS))
            if _weigh(most, size - most) <= weight:
                return True
        at = 0
        while at < size:
            first = data[at]
            step = _STEPS[first]
            if not step:
                width, extra = _LENGTHS[first]
                step = 1 + width + extra + int.from_bytes(data[at + 1 : at + 1 + width], "big")
            weight -= CONTAINER_WEIGHT if _IS_CONTAINER[first] else 1
            if weight < 0:
                return False
            at += step
        return True

    def admits_json(self, data: bytes) -> bool:
        """Tell whether a JSON body holds no more; what is no JSON holds what comes first."""
        # Strings may have such characters too, so this is the most that there can be. Each value but
        # the first of its container comes after a comma, each of a dict after a colon.
        containers = data.count(b"[") + data.count(b"{")
        values = data.count(b",") + data.count(b":")
        if _weigh(containers, values) <= self.weight:
            return True
        # Strings hold no quote when their escapes are gone.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
        containers = values = is_inside = 0
        for start in range(0, len(data), CHUNK):
            parts = data[start : start + CHUNK].split(b'"')
            outside = b"".join(parts[is_inside::2])
            is_inside ^= (len(parts) - 1) & 1
            containers += outside.count(b"[") + outside.count(b"{")
            values += outside.count(b",") + outside.count(b":")
            if _weigh(containers, values) > self.weight:
                return False
        return True


def _weigh(containers: int, values: int) -> int:
    """Return what so many lists and dicts count, and so many other values."""
    return CONTAINER_WEIGHT * containers + values
