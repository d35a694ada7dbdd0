"""Why the log of this node cannot be opened. Each message names the thing, the cause and the remedy."""

from vimraft.metadata.port import LogError


class Misconfigured(LogError):
    """The options contradict each other; nothing has been touched."""


class AddressInUse(LogError):
    """The Raft address cannot be listened on."""


class DirectoryInUse(LogError):
    """Another process has this data directory open."""


class CorruptData(LogError):
    """A file of the log cannot be trusted. Starting anyway could lose acknowledged changes."""


class SyncFailed(LogError):
    """The disk could not make data durable. What it has is unknown and asking again proves nothing: the
    process must end."""


REMEDY = (
    "If other managers run, come back in place of this one: vimraft site join --replace NAME (the damaged "
    "files are set aside, not deleted). Otherwise restore from a backup: vimraft meta restore"
)
"""What every CorruptData of a file that other managers also hold advises."""
