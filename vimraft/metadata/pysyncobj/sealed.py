"""Small JSON files for people, with a checksum: a flipped bit makes another address otherwise.

May live here: that format. The checksum is over whatever fields the file has, so a release reads files of a
later one and ignores the fields that it does not know.
"""

import zlib
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

CHECK = "check"
"""Its field: CRC32 of the others, as JSON with sorted keys."""
T = TypeVar("T", bound=Struct)


def sealed(content: Struct) -> bytes:
    fields = msgspec.to_builtins(content)
    data = msgspec.json.encode({**fields, CHECK: _crc(fields)})
    return msgspec.json.format(data) + b"\n"


def unsealed(data: bytes, kind: type[T]) -> T:
    """Raises ValueError."""
    try:
        fields: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        check = fields.pop(CHECK, None)
        if check != _crc(fields):
            raise ValueError("damaged (checksum)")
        return msgspec.convert(fields, kind)
    except UnicodeDecodeError as error:
        raise ValueError(str(error)) from None


def _crc(fields: dict[str, Any]) -> int:
    return zlib.crc32(msgspec.json.encode(fields, order="sorted"))
