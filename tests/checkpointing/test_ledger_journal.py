"""The ledger and the journal in one commit: what is claimed is reserved, and what is settled is paid."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from holdfast.checkpointing import Budget, BudgetExceeded, Closing, Database, JournalMismatch, LeaseLost, Wanted
from holdfast.checkpointing.journal import Said
from holdfast.checkpointing.leases import Lease, Pulse
from holdfast.checkpointing.records import Claim, Effect, Settlement, State
from tests.support.ledgers import D, call, costs, lost_answer, stand, told, wanted

BUDGET = Budget("s", hourly=2)
LOST = Lease(thread_id="t", worker="gone", control=object(), pulse=Pulse(), epoch=7)


def want(usd: str = "1") -> Wanted:
    return wanted(BUDGET, usd=usd, thread_id="t", effect_id="hf-ask")


def ask(**more: Any) -> Effect:
    return call("t", "ask", want(), **more)


def end(claim: Claim, state: State = "completed", usd: str | None = "0.25", **more: Any) -> Settlement:
    closing = Closing(outcome="settled", usd=D(usd), tokens=7) if usd is not None else None
    given: dict[str, Any] = {"closing": closing, **more}
    return Settlement(claim=claim, state=state, result=("json", b"1"), **given)


def said(verdict: Any) -> Said:
    return Said(verdict, "a person", ("json", b"1") if verdict == "happened" else None)


def grouped(db: Database) -> Any:
    return db.ledger._grouped  # pyright: ignore[reportPrivateUsage]


def test_a_claim_reserves_and_its_end_pays(db: Database, database_uri: str) -> None:
    """In the same commits; the call's own event has the cost, whatever else is said of it."""
    claim = db.journal.claim(ask())
    assert claim.reservation is not None
    assert claim.reservation.nearest is not None
    assert (claim.reservation.nearest.scope, claim.reservation.nearest.used) == ("s", 1)
    assert stand(db, "s") == (0, 1)
    db.journal.settle(end(claim, cost=D("0.25")))
    assert stand(db, "s") == (D("0.25"), 0)
    assert told(database_uri) == [("model.called", None), ("model.completed", D("0.25"))]


def test_a_call_that_was_made_is_free(db: Database) -> None:
    """Answered from its record, even where nothing is left; and nothing is reserved for it."""
    db.journal.settle(end(db.journal.claim(ask()), usd="2"))
    again = db.journal.claim(ask())
    assert (again.outcome, again.result, again.reservation) == ("completed", ("json", b"1"), None)
    with pytest.raises(BudgetExceeded):
        db.journal.claim(call("t", "another", want("0.01")))
    assert stand(db, "s") == (2, 0)


def test_what_is_refused_was_not_begun(db: Database, database_uri: str) -> None:
    """No effect is written, no event, and nothing is in doubt; once the limit is raised, it is a first attempt."""
    with pytest.raises(BudgetExceeded) as refused:
        db.journal.claim(call("t", "ask", want("3")))
    assert (refused.value.scope, refused.value.short) == ("s", 1)
    assert db.journal.doubts() == []
    assert told(database_uri) == []
    assert db.ledger.outstanding() == []
    db.ledger.set(Budget("s", hourly=3), by="ada")
    claim = db.journal.claim(call("t", "ask", want("3")))
    assert (claim.outcome, claim.attempt) == ("claimed", 1)


async def test_refused_and_granted_in_one_batch(db: Database) -> None:
    """Each gets its own answer, on a loop."""
    effects = [call("t", f"ask {number}", want(usd)) for number, usd in enumerate(("1.5", "1", "0.5"))]
    with grouped(db)._arrival:
        tasks = [asyncio.ensure_future(db.journal.aclaim(effect)) for effect in effects]
        await asyncio.sleep(0)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [Claim, BudgetExceeded, Claim]
    assert {doubt.name for doubt in await db.journal.adoubts()} == {"ask 0", "ask 2"}
    for each in found:
        if isinstance(each, Claim):
            await db.journal.asettle(end(each))
    assert stand(db, "s") == (D("0.5"), 0)


def test_a_call_in_doubt_that_is_not_made_again(db: Database) -> None:
    """Asked for, it keeps nothing reserved; what its first attempt reserved stays."""
    db.journal.claim(ask())
    found = db.journal.claim(ask())
    assert (found.outcome, found.reservation) == ("in_doubt", None)
    assert stand(db, "s") == (0, 1)
    assert [each.state for each in db.ledger.outstanding()] == ["held"]


def test_a_second_attempt(db: Database, database_uri: str) -> None:
    """What the first one had reserved counts as spent, as it may have been served; its own end corrects that."""
    first = db.journal.claim(ask())
    second = db.journal.claim(ask(), again=True)
    assert (second.outcome, second.attempt) == ("claimed", 2)
    assert stand(db, "s") == (1, 1)
    db.journal.settle(end(second))
    assert costs(database_uri) == D("1.25")
    with pytest.raises(LeaseLost):
        db.journal.settle(end(first, usd="0.5"))
    assert stand(db, "s") == (D("0.75"), 0)
    assert costs(database_uri) == D("0.75")


@pytest.mark.parametrize(("verdict", "state", "spent"), [
    ("did not happen", None, 0), ("happened", "presumed", 1), ("abandoned", "presumed", 1)
])  # fmt: skip
@pytest.mark.parametrize("before", ["held", "presumed"])
def test_what_a_person_says(
    before: str, verdict: str, state: str | None, spent: int, db: Database, database_uri: str
) -> None:
    """A call that did not happen gives back what was reserved; one that may have, counts as spent."""
    claim = db.journal.claim(ask())
    if before == "presumed":
        db.journal.settle(end(claim, "raised", closing=Closing(outcome="presumed")))
    assert db.journal.resolve("t", "hf-ask", said(verdict))
    assert [each.state for each in db.ledger.outstanding()] == ([state] if state else [])
    assert stand(db, "s") == (spent, 0)
    assert costs(database_uri) == spent
    assert not db.journal.resolve("t", "hf-ask", said("did not happen"))
    assert stand(db, "s") == (spent, 0)


def test_a_person_speaks_of_the_newest_attempt(db: Database) -> None:
    """That the second attempt did not happen says nothing of the first."""
    db.journal.claim(ask())
    db.journal.claim(ask(), again=True)
    assert db.journal.resolve("t", "hf-ask", said("did not happen"))
    assert stand(db, "s") == (1, 0)


def test_another_call_under_the_same_id(db: Database) -> None:
    """It is refused, and keeps nothing reserved."""
    db.journal.settle(end(db.journal.claim(ask()), "failed", usd=None, closing=Closing(outcome="released")))
    with pytest.raises(JournalMismatch):
        db.journal.claim(ask(request=b"something else"))
    assert stand(db, "s") == (0, 0)
    assert db.ledger.outstanding() == []


def test_a_thread_that_another_worker_runs(db: Database, database_uri: str) -> None:
    """A claim under a lost lease reserves nothing; what a call did cost is counted and told of, lease or none."""
    with pytest.raises(LeaseLost):
        db.journal.claim(ask(lease=LOST))
    assert db.ledger.outstanding() == []
    claim = db.journal.claim(ask())
    assert db.journal.resolve("t", "hf-ask", said("did not happen"))
    with pytest.raises(LeaseLost):
        db.journal.settle(end(claim))
    assert stand(db, "s") == (D("0.25"), 0)
    assert costs(database_uri) == D("0.25")


def test_an_end_that_comes_after_the_lease_was_lost(db: Database, database_uri: str) -> None:
    """The call stays in doubt, and is paid."""
    claim = db.journal.claim(ask())
    lost = Claim(ask(lease=LOST), "claimed", 1, claim.token, None, claim.reservation)
    with pytest.raises(LeaseLost):
        db.journal.settle(end(lost))
    assert told(database_uri) == [("model.called", None), ("cost.corrected", D("0.25"))]
    assert stand(db, "s") == (D("0.25"), 0)


def test_an_operator_who_knows_it_first(db: Database, database_uri: str) -> None:
    """What the provider's bill said holds; the call's own end is written without a second cost."""
    claim = db.journal.claim(ask())
    assert db.ledger.resolve(claim.token, usd=D("0.4"), tokens=3)
    db.journal.settle(end(claim))
    assert stand(db, "s") == (D("0.4"), 0)
    assert costs(database_uri) == D("0.4")


def test_an_end_of_which_nothing_is_known(db: Database) -> None:
    """Without a closing the reservation stays, until somebody says what became of the call."""
    db.journal.settle(end(db.journal.claim(ask()), "raised", usd=None))
    assert stand(db, "s") == (0, 1)
    assert db.journal.resolve("t", "hf-ask", said("did not happen"))
    assert stand(db, "s") == (0, 0)


def test_an_answer_that_was_lost(db: Database, database_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claimed, or settled, and not answered: it is sent again, and counts once."""
    with lost_answer(grouped(db), monkeypatch):
        claim = db.journal.claim(ask())
    assert (claim.outcome, claim.attempt) == ("claimed", 1)
    assert claim.reservation is not None
    assert stand(db, "s") == (0, 1)
    with lost_answer(grouped(db), monkeypatch):
        db.journal.settle(end(claim))
    assert stand(db, "s") == (D("0.25"), 0)
    assert told(database_uri) == [("model.called", None), ("model.completed", D("0.25"))]


def test_a_record_that_was_taken_back(db: Database) -> None:
    """A completed call that is to be made again is reserved again."""
    db.journal.settle(end(db.journal.claim(ask()), usd="0.5"))
    assert db.journal.refuse(ask(), "of no use")
    claim = db.journal.claim(ask())
    assert (claim.outcome, claim.attempt) == ("claimed", 2)
    assert stand(db, "s") == (D("0.5"), Decimal(1))
