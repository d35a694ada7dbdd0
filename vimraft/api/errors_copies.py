"""What operations on copies and owners may raise; vimraft.api.advice_copies turns each into words.

May live here: exception types with facts, no prose.
"""

from vimraft.api.errors import ApiFault


class CopyFault(ApiFault):
    """`name` is the volume's or the manager's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class OneCopyOnly(CopyFault):
    """Nothing of the only copy lies at sites of `manager`, which was to own it."""

    def __init__(self, name: str, manager: str) -> None:
        super().__init__(name)
        self.manager = manager


class NotMoved(CopyFault):
    """The owner could not hand the volume over; `why` in its own words."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name)
        self.why = why


class MoveUndecided(CopyFault):
    """The owner had not answered when the wait ended."""


class NothingToCompare(CopyFault):
    """Fewer than two copies are in sync, of `copies`."""

    def __init__(self, name: str, copies: int) -> None:
        super().__init__(name)
        self.copies = copies


class SourceNeeded(CopyFault):
    """Two copies cannot tell which of them is right."""

    def __init__(self, name: str, copies: tuple[str, ...]) -> None:
        super().__init__(name)
        self.copies = copies


class AnswersStill(CopyFault):
    """A manager that is to be given up for lost."""
