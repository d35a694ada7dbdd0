"""Who claims a volume whose owner is silent, and when."""

from types import SimpleNamespace

from tests.copies_cases import CopyTables, copies, level_three, two_copies
from vimraft.core.commands import RenewLease, TakeOver
from vimraft.core.tables import State
from vimraft.site.takeover import STAGGER_NS, Claimer, candidates

LEASE_NS = 4_000_000_000
OTHERS_NS = LEASE_NS * 5 // 4


class Case:
    def __init__(self, tables: CopyTables, me: str) -> None:
        self.tables = tables
        self.now_ns = 0
        self.able = True
        self.quorum = True
        self.claimer = Claimer(self, me, able=lambda: self.able, clock_ns=lambda: self.now_ns)
        self.claimer.look(self.state)

    @property
    def state(self) -> State:
        return self.tables.state

    def status(self) -> SimpleNamespace:
        return SimpleNamespace(has_quorum=self.quorum)

    def renewed(self, manager: str, counter: int) -> None:
        self.tables.applied(RenewLease(manager, "life", counter, 0))
        self.claimer.look(self.state)


def test_a_volume_is_claimed_a_quarter_after_its_owners_lease_and_not_before() -> None:
    case = Case(two_copies(), "m-osaka")
    case.now_ns = OTHERS_NS - 1
    assert case.claimer.claims() == []
    case.now_ns = OTHERS_NS
    (claim,) = case.claimer.claims()
    assert isinstance(claim, TakeOver)
    assert (claim.volume, claim.owner, claim.new_owner) == ("v", "m-tokyo", "m-osaka")
    case.tables.applied(claim)
    assert case.tables.volume().owner == "m-osaka"
    assert case.claimer.claims() == []


def test_a_renewal_puts_it_off_and_a_claim_by_the_stamp_before_is_refused() -> None:
    case = Case(two_copies(), "m-osaka")
    case.now_ns = OTHERS_NS
    (claim,) = case.claimer.claims()
    case.renewed("m-tokyo", 2)
    assert case.claimer.claims() == []
    assert type(case.tables.refused(claim)).__name__ == "Renewed"


def test_nothing_is_claimed_without_a_quorum_or_an_export_that_may_own() -> None:
    case = Case(two_copies(), "m-osaka")
    case.now_ns = OTHERS_NS
    case.quorum = False
    assert case.claimer.claims() == []
    case.quorum, case.able = True, False
    assert case.claimer.claims() == []


def test_who_has_nothing_in_sync_claims_nothing() -> None:
    tables = two_copies()
    case = Case(tables, "m-nagoya")
    case.now_ns = OTHERS_NS * 2
    assert case.claimer.claims() == []
    tables.retire("B")
    stale = Case(tables, "m-osaka")
    stale.now_ns = OTHERS_NS * 2
    assert stale.claimer.claims() == []


def test_a_sole_holder_is_never_claimed() -> None:
    tables = level_three()
    tables.applied(copies("v", 4, 2, "tokyo", same_site=True))
    case = Case(tables, "m-osaka")
    case.now_ns = OTHERS_NS * 3
    assert case.claimer.claims() == []


def test_the_second_candidate_waits_for_the_first_unless_that_one_is_silent_too() -> None:
    tables = level_three()
    tables.applied(copies("v", 4, 3))
    assert candidates(tables.state, tables.volume()) == ["m-nagoya", "m-osaka"]
    first, second = Case(tables, "m-nagoya"), Case(tables, "m-osaka")
    second.now_ns = 1
    first.now_ns = 1
    tables.applied(RenewLease("m-nagoya", "life", 2, 0))
    for case in (first, second):
        case.claimer.look(case.state)
        case.now_ns = OTHERS_NS
    assert first.claimer.claims()
    assert second.claimer.claims() == []
    second.now_ns = OTHERS_NS + 1  # nagoya's lease has run out, too
    assert second.claimer.claims()
    third = Case(tables, "m-osaka")
    third.now_ns = OTHERS_NS - 1
    tables.applied(RenewLease("m-nagoya", "life", 3, 0))
    third.claimer.look(third.state)
    third.now_ns = OTHERS_NS + STAGGER_NS
    assert third.claimer.claims(), "it has waited long enough"
