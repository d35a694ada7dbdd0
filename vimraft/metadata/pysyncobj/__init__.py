"""The log port on PySyncObj 0.3.17, the only package that imports it.

May live here: everything that knows PySyncObj. One subject a file:
- the disk: `disk` (port), `journal` with `records` and `watermark` (all durable Raft state), `snapshot` and
  `snapshot_file` (the tables), `members`, `identity`, `recovery` (what a restart finds), `legacy`;
- the wire: `wire` (messages), `handshake`, `tls`, `connection`, `listener`, `resolver`, `strangers`,
  `member_transport`, `unpickle`, `without_encryptor`;
- the node: `environment` (what it takes from outside), `node` with `journal_hook`, `gate` and `durability`
  (nothing leaves before the disk has it), `elections`, `matching`, `inbox` (each message), `intake` (each
  command), `membership` and `peers`, `status`, `ticker` (its thread);
- the port: `log`, `proposals` (what a client may rely on), `member_changes`; `config`, `errors`, `selfcheck`.

Kept: an acknowledged command survives any crash and power loss, of all nodes included (INV-1), and is
applied once however often it is sent (INV-8); a file that cannot be trusted stops the start; a full disk
stops the node's part, not the process, and harms nothing; one membership change at a time; a wiped disk
does not come back under its old name; a node without contact says so. Reasons for each guard stand in its
file; docs/testing.md says how each was tried.
"""

# ruff: noqa: E402
from vimraft.metadata.pysyncobj import without_encryptor

without_encryptor.install()  # before anything of PySyncObj is imported

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
