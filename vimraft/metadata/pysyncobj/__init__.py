"""The log port on PySyncObj 0.3.17, the only package that imports it.

May live here: everything that knows PySyncObj. One subject a file: `config` (options), `errors`,
`files` (durable writes), `members` (who votes, across restarts), `snapshot` (the tables on disk and
on the wire), `recovery` (what a restart finds), `matching` (what a follower keeps), `transport` (who
is heard), `node` (the Raft node), `ticker` (its thread), `log` (the port). A hardened journal is a
further file beside these.

Kept now: after `kill -9` of any or all processes, every acknowledged command is there again; a
snapshot or journal that cannot be read stops the process instead of starting it empty; one
membership change at a time; a retried command applies once; a node without contact says so.

Not kept yet: after *power loss* the tail of the journal may be gone, since PySyncObj writes it
through mmap without fsync (snapshots and member lists are synced); journal records carry no
checksum, and a full disk under the journal kills the process (SIGBUS); acknowledgements carry no
term and there is no pre-vote; peers are not authenticated and messages are pickles, so the Raft port
must be reachable by members only.
"""

# ruff: noqa: E402
from vimraft.metadata.pysyncobj.unpickle import install

install()  # before any other module binds PySyncObj's own

from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.errors import AddressInUse, CorruptData, DirectoryInUse, Misconfigured
from vimraft.metadata.pysyncobj.handshake import TlsFiles
from vimraft.metadata.pysyncobj.log import PySyncObjLog, open_log

__all__ = [
    "AddressInUse",
    "CorruptData",
    "DirectoryInUse",
    "Misconfigured",
    "PySyncObjConfig",
    "PySyncObjLog",
    "TlsFiles",
    "open_log",
]
