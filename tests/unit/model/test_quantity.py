import contextlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.errors import InvalidInput
from vzkubelet.model import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1", 1),
        ("-1", -1),
        ("+1", 1),
        ("500m", Decimal("0.5")),
        ("1.5", Decimal("1.5")),
        (".5", Decimal("0.5")),
        ("100n", Decimal("1e-7")),
        ("3u", Decimal("3e-6")),
        ("2k", 2000),
        ("2Ki", 2048),
        ("1.5Gi", 3 * 2**29),
        ("1M", 10**6),
        ("1Ti", 2**40),
        ("2P", 2 * 10**15),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12e-1", Decimal("1.2")),
        (4, 4),
        (0.25, Decimal("0.25")),
    ],
)
def test_parse(text: str | float, value: Decimal | int) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Gi",
        "m",
        "1 Gi",
        "1gi",
        "1K",
        "0x10",
        "1_000",
        "NaN",
        "Infinity",
        "-inf",
        "1e",
        "--1",
        "1.2.3",
        "1e400",
        "1e3Ki",
        "1e2k",
        "１",
    ],
)
def test_parse_refuses_and_says_what_to_write(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a quantity: write a number"):
        quantity.parse(text)


def test_rounding_is_up_as_in_kubernetes() -> None:
    assert quantity.to_int("1.1") == 2
    assert quantity.to_int("100m") == 1
    assert quantity.to_milli("0.0001") == 1
    assert quantity.to_milli("1500m") == 1500
    assert quantity.to_whole_cpus("1001m") == 2
    assert quantity.to_whole_cpus("2") == 2


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1Ki"), (3 * 2**29, "1536Mi"), (2**31, "2Gi"), (2**31 + 1, "2147483649")],
)
def test_format_bytes_takes_the_largest_unit_that_divides(size_bytes: int, text: str) -> None:
    assert quantity.format_bytes(size_bytes) == text


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_formatted_bytes_parse_to_themselves(size_bytes: int) -> None:
    assert quantity.to_int(quantity.format_bytes(size_bytes)) == size_bytes


@given(st.text(max_size=12))
def test_no_text_raises_anything_but_invalid_input(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        quantity.to_milli(text)
