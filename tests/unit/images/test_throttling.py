"""Retry-After in both forms, and hosts that are not asked meanwhile."""

import asyncio
import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.aio import spawn
from vzkubelet.images.throttling import RETRY_AFTER_MAX_S, Holds, retry_after_s

NOW_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "wanted_s"),
    [
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("86400", RETRY_AFTER_MAX_S),
        ("999999999", RETRY_AFTER_MAX_S),
        (email.utils.formatdate(NOW_S + 30, usegmt=True), 30),
        (email.utils.formatdate(NOW_S - 30, usegmt=True), 0),
        (email.utils.formatdate(NOW_S + 10**6, usegmt=True), RETRY_AFTER_MAX_S),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30),
        ("", None),
        ("soon", None),
        ("0\x1f", None),  # a space to regular expressions, and none to numbers
        ("-5", None),
        ("1.5", None),
        ("9999999999", None),
        ("Fri, 99 Foo 2023 99:99:99 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", RETRY_AFTER_MAX_S),
    ],
)
def test_retry_after(value: str, wanted_s: float | None) -> None:
    found = retry_after_s(value, NOW_S)
    assert found == wanted_s if wanted_s is None else found == pytest.approx(wanted_s)


@given(st.text(max_size=60))
def test_any_text_is_a_wait_or_none(value: str) -> None:
    found = retry_after_s(value, NOW_S)
    assert found is None or 0 <= found <= RETRY_AFTER_MAX_S


async def test_only_the_host_that_asked_is_left_alone() -> None:
    holds, loop = Holds(), asyncio.get_running_loop()
    begun_s = loop.time()
    holds.hold("slow", 10)
    await holds.passed("other")
    assert loop.time() == begun_s
    await holds.passed("slow")
    assert loop.time() - begun_s == pytest.approx(10)
    await holds.passed("slow")
    assert loop.time() - begun_s == pytest.approx(10)


async def test_hold_that_becomes_longer_while_somebody_waits() -> None:
    holds, loop = Holds(), asyncio.get_running_loop()
    begun_s = loop.time()
    holds.hold("slow", 10)
    waiting = spawn(holds.passed("slow"), name="waiting")
    await asyncio.sleep(5)
    holds.hold("slow", 10)
    holds.hold("slow", 1)
    await waiting
    assert loop.time() - begun_s == pytest.approx(15)
