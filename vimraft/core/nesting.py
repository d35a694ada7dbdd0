"""How deeply a msgpack message nests, found without recursion.

May live here: this one scan. The msgpack decoder recurses, and how deep it may go depends on the call
stack of whoever calls it; a hostile entry in the log could be refused by one manager and accepted by
another. So `apply` measures first, and its verdict depends on the bytes alone (INV-8).
"""

_OPENERS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_FIXED |= {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
_SIZED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
_SIZED |= {0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
_COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def nesting_exceeds(data: bytes, limit: int) -> bool:
    """True if, behind its version byte, the message in `data` nests deeper than `limit` containers.

    Torn or trailing bytes are the decoder's to report. Each level takes at least one byte that may
    open a container, so counting those (one pass in C) settles all but odd messages.
    """
    if len(data) - len(data.translate(None, _OPENERS)) <= limit:
        return False
    left: list[int] = []  # per open container: the elements still to come
    at, end = 1, len(data)
    while at < end:
        at, elements = _element(data, at)
        if left:
            left[-1] -= 1
        if elements:
            left.append(elements)
            if len(left) > limit:
                return True
        while left and left[-1] == 0:
            left.pop()
        if not left:
            return False
    return False


def _element(data: bytes, at: int) -> tuple[int, int]:
    """The element at `at`: where the next one begins, and how many elements it contains."""
    code = data[at]
    at += 1
    if code <= 0x7F or code >= 0xE0:
        return at, 0
    if code <= 0x8F:
        return at, 2 * (code & 0x0F)
    if code <= 0x9F:
        return at, code & 0x0F
    if code <= 0xBF:
        return at + (code & 0x1F), 0
    if code in _SIZED:
        width, extra = _SIZED[code]
        return at + width + extra + int.from_bytes(data[at : at + width], "big"), 0
    if code in _COUNTED:
        width, factor = _COUNTED[code]
        return at + width, factor * int.from_bytes(data[at : at + width], "big")
    return at + _FIXED.get(code, 0), 0
