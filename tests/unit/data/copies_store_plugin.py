"""An nbdkit plugin: the store side of one volume over byte arrays, for tests of the owner's links.

Parameters: root= (of the project), manager=, map= (msgpack of a VolumeMap, as hex), busy= (reads in backends
from which on it answers "use the other copy").
"""

import sys

sys.path.insert(0, "/usr/lib/python3/dist-packages")
API_VERSION = 2
_params = {}


def config(key, value):
    _params[key] = value


def config_complete():
    global wire, store, msgspec, time, threading  # noqa: PLW0603
    sys.path.insert(0, _params["root"])
    import os
    import site

    for directory in os.environ["VIMRAFT_SITE_PACKAGES"].split(":"):
        site.addsitedir(directory)
    import threading
    import time

    import msgspec

    from tests.copies_memory import MemoryStore
    from vimraft.data.copies import wire
    from vimraft.protocol.maps import VolumeMap
    from vimraft.protocol.store_requests import StoreLimits

    newest = msgspec.msgpack.decode(bytes.fromhex(_params["map"]), type=VolumeMap)
    store = MemoryStore(
        _params["manager"], newest, limits=StoreLimits(busy_reads=int(_params.get("busy", 32)))
    )


class Opened:
    def __init__(self, export):
        self.export = wire.parse_copy_export(export)
        self.answer = b""
        self.number = 0


def thread_model():
    import nbdkit

    return nbdkit.THREAD_MODEL_SERIALIZE_REQUESTS


def open(_readonly):
    import nbdkit

    return Opened(nbdkit.export_name())


def export_description(_h):
    return wire.describe_boot(store.boot)


def get_size(h):
    return 8 << 20 if h.export.copy else wire.CONTROL_BYTES


def can_write(_h):
    return True


can_flush = can_trim = can_zero = can_multi_conn = can_write


def can_fua(_h):
    import nbdkit

    return nbdkit.FUA_NATIVE


def _ask(h, request):
    answers = []
    arrived = threading.Event()

    def done(answer):
        answers.append(answer)
        arrived.set()

    store.ask(h.export.session, request, done)
    arrived.wait(10)
    return answers[0]


def _data(h, kind, first, end, data, flags):
    import nbdkit

    from vimraft.protocol.messages import Done, for_owner
    from vimraft.protocol.owner_effects import StoreRequest

    h.number += 1
    number = (id(h) << 32) + h.number
    e = h.export
    fua = bool(flags & nbdkit.FLAG_FUA)
    request = StoreRequest(
        number, "v", e.copy, kind, e.epoch, e.session.incarnation, e.session.number, first, end, data, fua,
        False, (), "", 0,
    )  # fmt: skip
    answer = _ask(h, request)
    if not isinstance(answer.result, Done):
        nbdkit.set_error(wire.ERRNO_OF[for_owner(answer).how])
        raise OSError(str(answer.result))
    return answer.result.data


def pread(h, buf, offset, _flags):
    if h.export.copy:
        buf[:] = _data(h, "read", offset, offset + len(buf), b"", 0)
    else:
        part = h.answer[offset : offset + len(buf)]
        buf[: len(part)] = part


def pwrite(h, buf, offset, flags):
    if h.export.copy:
        _data(h, "write", offset, offset + len(buf), bytes(buf), flags)
    else:
        h.answer = wire.encode_answer(_ask(h, wire.decode_request(bytes(buf))))


def zero(h, count, offset, flags):
    _data(h, "zero", offset, offset + count, b"", flags)


def trim(h, count, offset, flags):
    _data(h, "trim", offset, offset + count, b"", flags)


def flush(h, flags):
    _data(h, "flush", 0, 0, b"", flags)
