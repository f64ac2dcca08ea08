"""Every single damage to what is stored is found by a verification, whatever a load makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, assume, given, settings

from holdfast.checkpointing import Database
from holdfast.checkpointing.integrity import canonical
from tests.support.damage import Damage, Ward, damages
from tests.support.threads import THREAD, Build, delta, finished, waiting

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.fixture
def ward(database_uri: str) -> Iterator[Ward]:
    """What damages this test's database."""
    ward = Ward(database_uri)
    yield ward
    ward.connection.close()


def harmless(damage: Damage) -> bool:
    """Whether nothing depends on what is damaged: the head's generation, its least count, the notation of JSON."""
    if damage.table == "heads":
        return damage.column == "generation" or (damage.column == "writes" and damage.value < damage.row["writes"])
    if damage.column not in {"checkpoint", "metadata"}:
        return False
    value = damage.value if isinstance(damage.value, str) else json.dumps(damage.value)
    return canonical(value) == canonical(damage.row[damage.column])


@pytest.mark.parametrize("build", [finished, waiting, delta])
def test_no_damage_escapes_a_verification(ward: Ward, db: Database, build: Build) -> None:
    build(db.saver)
    assert db.verify(THREAD) == []
    ward.keep()

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=_SLOW)
    @given(damages(ward))
    def check(damage: Damage) -> None:
        assume(not harmless(damage))
        with ward.damaged(damage) as done:
            assert not done or "damage" in {finding.severity for finding in db.verify()}, damage

    check()
