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
