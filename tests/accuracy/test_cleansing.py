"""How many of the labelled addresses are read right: what was reached is held."""

from collections import Counter

from activities.orders import cleansing
from tests.bench.addresses import cases, held, right

REACHED = 0.99
"""Two of 583 are wrong."""


def test_labelled_addresses_are_read_right() -> None:
    wrong = [case for case in cases() if not right(case)]
    assert len(wrong) <= (1 - REACHED) * len(cases()), wrong


def test_no_category_is_forgotten() -> None:
    assert len(cases()) >= 300
    assert min(Counter(case.category for case in cases()).values()) >= 14


def test_clear_addresses_are_not_held() -> None:
    clear = ("abbreviated", "missing levels", "municipalities", "autonomous", "directly administered", "zones")
    held_back = [case for case in cases() if case.category in clear and held(cleansing.recipient(case.recipient))]
    assert [case for case in held_back if case.decidable] == []


def test_what_contradicts_itself_is_held() -> None:
    contradicting = [case for case in cases() if case.category == "contradictions"]
    silent = [case for case in contradicting if not held(cleansing.recipient(case.recipient))]
    assert len(silent) <= 3, silent
