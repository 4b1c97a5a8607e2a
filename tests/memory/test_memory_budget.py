"""The split of the limit, and the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sextract.errors import LimitError
from sextract.memory.budget import GRANULE, MIB, Budget, Ledger


@given(
    limit=st.integers(0, 1 << 40),
    base=st.integers(0, 1 << 32),
    processes=st.integers(1, 300),
)
def test_parts_never_exceed_the_limit(limit: int, base: int, processes: int) -> None:
    budget = Budget(limit, base, processes)
    if budget.slab:
        assert sum(nbytes for _, nbytes in budget.lines()) <= limit
        assert budget.slab % GRANULE == 0


@given(base=st.integers(0, 1 << 32), processes=st.integers(1, 300), slab=st.integers(1, 1 << 36))
def test_smallest_limit_works_and_is_the_smallest(base: int, processes: int, slab: int) -> None:
    smallest = Budget(0, base, processes).smallest_limit(slab)
    assert smallest % MIB == 0
    Budget(smallest, base, processes).require(slab, "a tile")
    with pytest.raises(LimitError):
        Budget(smallest - MIB, base, processes).require(slab, "a tile")


def test_refusal_names_the_smallest_limit() -> None:
    budget = Budget(64 * MIB, 60 * MIB, 4)
    with pytest.raises(LimitError, match=rf"--mem-limit 64M .* {budget.smallest_limit(20 * MIB) // MIB}M") as caught:
        budget.require(20 * MIB, "a tile of 512 rows")
    assert "a tile of 512 rows" in str(caught.value)


def test_ledger_keeps_accounts_and_peaks() -> None:
    ledger = Ledger(100)
    ledger.charge("tiles", 60)
    ledger.charge("stamps", 30)
    ledger.refund("tiles", 50)
    ledger.charge("stamps", 10)
    assert (ledger.total, ledger.peak) == (50, 90)
    accounts = ledger.accounts()
    assert list(accounts) == ["tiles", "stamps"]
    assert (accounts["tiles"].now, accounts["tiles"].peak) == (10, 60)
    assert (accounts["stamps"].now, accounts["stamps"].peak) == (40, 40)


@pytest.mark.parametrize("nbytes", [51, -1])
def test_ledger_refuses_what_it_cannot_hold(nbytes: int) -> None:
    ledger = Ledger(100)
    ledger.charge("tiles", 50)
    with pytest.raises(ValueError):
        ledger.charge("stamps", nbytes)
    with pytest.raises(ValueError):
        ledger.refund("tiles", nbytes)
    with pytest.raises(ValueError):
        ledger.refund("nobody", 1)
    assert ledger.total == 50
