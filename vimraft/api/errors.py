"""What an operation of the API may raise; vimraft.api.advice turns each into words.

May live here: exception types with facts, no prose.
"""

from vimraft.api.schema import ErrorReply
from vimraft.core.reasons import Reason


class ApiFault(Exception):
    """Base of what the service raises on purpose."""


class Refused(ApiFault):
    """The tables refused the command."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(type(reason).__name__)
        self.reason = reason


class ManagerUnreachable(ApiFault):
    """The manager that must do this does not answer."""

    def __init__(self, manager: str, what: str) -> None:
        super().__init__(f"{manager}: {what}")
        self.manager = manager
        self.what = what


class DeviceProblem(ApiFault):
    """A real volume cannot be prepared or taken into use; `message` comes from the device layer."""

    def __init__(self, real: str, message: str) -> None:
        super().__init__(f"{real}: {message}")
        self.real = real
        self.message = message


class PassedOn(ApiFault):
    """Another manager's error reply, given on as it is."""

    def __init__(self, reply: ErrorReply, status: int) -> None:
        super().__init__(reply.message)
        self.reply = reply
        self.status = status


class MembershipFault(ApiFault):
    """A change of the log's members that would not be safe, or makes no sense now."""

    def __init__(self, manager: str) -> None:
        super().__init__(manager)
        self.manager = manager


class NotInLog(MembershipFault):
    """The tables know the manager, the log does not (yet)."""


class NotCaughtUp(MembershipFault):
    def __init__(self, manager: str, lag: int | None, detail: str = "") -> None:
        super().__init__(manager)
        self.lag = lag
        self.detail = detail


class NoMajorityLeft(MembershipFault):
    """Without this manager too few of the voters left can be reached."""

    def __init__(self, manager: str, left: tuple[str, ...], silent: tuple[str, ...]) -> None:
        super().__init__(manager)
        self.left = left
        self.silent = silent


class LastVoter(MembershipFault):
    pass


class StillAlive(MembershipFault):
    """A manager that is to be replaced answers."""

    def __init__(self, manager: str, heard: str) -> None:
        super().__init__(manager)
        self.heard = heard


class IdentityChanged(MembershipFault):
    """Another data directory than the one that was let in under this name."""


class OnlyItself(MembershipFault):
    """A manager cannot take itself out, and no other can be reached to do it."""


class IndexOutOfReach(ApiFault):
    """The tables of this index are not known any more, or not yet."""

    def __init__(self, index: int, oldest: int, newest: int) -> None:
        super().__init__(str(index))
        self.index = index
        self.oldest = oldest
        self.newest = newest


class MoveFault(ApiFault):
    """Deleting, saving, draining or migrating that cannot be done, or was stopped."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class ClientsAttached(MoveFault):
    """Somebody uses the volume; `managers` serve them."""

    def __init__(self, name: str, managers: tuple[str, ...]) -> None:
        super().__init__(name)
        self.managers = managers


class LevelTooLow(MoveFault):
    """The cluster's tables cannot do this yet; `name` is what was asked for."""

    def __init__(self, name: str, level: int, needed: int) -> None:
        super().__init__(name)
        self.level = level
        self.needed = needed


class RealFailed(MoveFault):
    """What lies on a failed real volume cannot be read, so it cannot be moved."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name)
        self.why = why


class JobCancelled(MoveFault):
    """By an operator; `name` is the job's."""


class NotCancellable(MoveFault):
    """A job that ends by itself."""


class TargetNotEmptied(MoveFault):
    """Saving would overwrite a volume that exists, and nobody said that it may."""


class TargetTooSmall(MoveFault):
    def __init__(self, name: str, size_bytes: int, needed_bytes: int) -> None:
        super().__init__(name)
        self.size_bytes = size_bytes
        self.needed_bytes = needed_bytes


class SavedDiffers(MoveFault):
    """What was read back of the copy of volume `name` is not what was written."""

    def __init__(self, name: str, target: str, offset: int) -> None:
        super().__init__(name)
        self.target = target
        self.offset = offset


class ChangedMeanwhile(MoveFault):
    """Another volume has the name now, or none has."""


class VolumeIo(MoveFault):
    """The volume could not be read or written through its own export."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(name)
        self.what = what
