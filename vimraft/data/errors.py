"""Failures of the data plane and what a client is told about them.

May live here: the exceptions that travel inside the data plane, and the mapping to the few errnos that
survive the NBD wire. Keeps: whatever is not known to be harmless becomes EIO (never EINVAL, which a client
takes for its own mistake).
"""

import errno

WIRE_ERRNOS = frozenset(
    (errno.EIO, errno.EPERM, errno.ENOSPC, errno.ENOMEM, errno.ESHUTDOWN, errno.EINVAL, errno.EOPNOTSUPP)
)
_TRANSLATED = {
    errno.EROFS: errno.EPERM,
    errno.EDQUOT: errno.ENOSPC,
    errno.EFBIG: errno.ENOSPC,
    errno.ENOTSUP: errno.EOPNOTSUPP,
}


def wire_errno(number: int | None) -> int:
    """The errno to show to an NBD client. EBUSY, EAGAIN, ETIMEDOUT, ENOENT … would arrive as EINVAL."""
    if number is None:
        return errno.EIO
    if number in WIRE_ERRNOS:
        return number
    return _TRANSLATED.get(number, errno.EIO)


class IoError(Exception):
    """A request failed for good; `number` is the errno that its client gets."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = wire_errno(number)


class OpenError(Exception):
    """An export cannot be opened: names it, the cause and the remedy."""


class OlderMap(Exception):
    """A manager that is still catching up sent tables older than those installed: a volume built since
    would be gone for a moment, and its clients with it."""


class TryAgain(Exception):
    """Not now: the request is tried again, as it is then, until its deadline."""


class PeerLost(TryAgain):
    """The connection to a peer broke, or the peer refused this epoch or session: the outcome of what was
    in flight is unknown. The request is sent again, through a newer session."""


class RealBusy(TryAgain):
    """A real volume is being opened, or what its former life took is still being flushed."""
