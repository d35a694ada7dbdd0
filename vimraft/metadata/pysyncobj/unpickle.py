"""Reading pickles without running them: an allow-list in place of PySyncObj's unpickling.

May live here: the allow-list and its installation (at import of this package, before anything of PySyncObj
is used). A pickle names functions to call; whoever may write one runs what he likes. Nothing on the wire is
a pickle (wire.py), and no new file holds one. What is left are journals of the first release: codec bytes in
a tuple, and membership changes with a TCPNode.

PySyncObj's own `loads` tries a second, slower unpickler after any exception, so a refusal of the first would
be undone by the second: both ways end here. Its connection (zlib streams of any size, then a pickle) is not
used at all, see connection.py.
"""

import io
import pickle
from typing import Any, BinaryIO, Final

import pysyncobj.journal
import pysyncobj.pickle
from pysyncobj.node import TCPNode

MAX_PICKLE_BYTES: Final = 1 << 20

_CONTAINERS: Final = {"set": set, "frozenset": frozenset, "bytearray": bytearray, "complex": complex}


class UnpicklingRefused(Exception):
    """A pickle that names what it must not, or is none."""


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes. Other codecs would import modules."""
    if encoding != "latin1":
        raise UnpicklingRefused(f"a pickle with bytes as {encoding!r}")
    return text.encode("latin1")


def _bytes() -> bytes:
    """How protocol 2 writes empty ones."""
    return b""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _CONTAINERS:
            return _CONTAINERS[name]
        if (module, name) in (("builtins", "bytes"), ("__builtin__", "bytes")):
            return _bytes
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) == ("pysyncobj.node", "TCPNode"):
            # A class of its own for each pickle: what a pickle sets on it changes nothing elsewhere.
            return type("TCPNode", (TCPNode,), {})
        raise UnpicklingRefused(f"a pickle that names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise UnpicklingRefused(f"a pickle with a persistent id {pid!r}")


def load(file: BinaryIO) -> Any:
    """Raises UnpicklingRefused."""
    return loads(file.read(MAX_PICKLE_BYTES + 1))


def loads(data: bytes | str) -> Any:
    """Raises UnpicklingRefused, for whatever is wrong."""
    raw = data.encode() if isinstance(data, str) else bytes(data)
    if len(raw) > MAX_PICKLE_BYTES:
        raise UnpicklingRefused(f"a pickle of more than {MAX_PICKLE_BYTES} bytes")
    try:
        return _Unpickler(io.BytesIO(raw)).load()
    except UnpicklingRefused:
        raise
    except Exception as error:  # noqa: BLE001 - a pickle may raise anything
        raise UnpicklingRefused(f"not a pickle: {type(error).__name__}: {error}") from None


def install() -> None:
    """Everywhere that PySyncObj reads a pickle. Its modules `syncobj`, `serializer` and `tcp_connection`
    look `pickle.loads` up in `pysyncobj.pickle` at each use; `journal` has bound the name. Idempotent."""
    pysyncobj.pickle.loads = loads
    pysyncobj.pickle.load = load
    pysyncobj.journal.loads = loads
