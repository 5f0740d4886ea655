import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.errors import InvalidInput
from vzkubelet.model import duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("1.5", 1.5),
        (60, 60.0),
        ("0s", 0.0),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("500ms", 0.5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("7ns", 7e-9),
        ("1h2m3.5s", 3723.5),
        (".5s", 0.5),
        (" 2m ", 120.0),
    ],
)
def test_parse(text: str | int, seconds: float) -> None:
    assert duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1", "-1s", "1d", "1m 30s", "1m30", "30s1", "1e3", "1:30", "one", "1hs"])
def test_parse_refuses_and_says_what_to_write(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a duration: write 90"):
        duration.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.25, "250ms"),
        (1, "1s"),
        (1.234, "1.234s"),
        (1.2345678, "1.235s"),
        (59.9999, "1m0s"),
        (62.5, "1m2.5s"),
        (3600, "1h0m0s"),
        (3723.04, "1h2m3.04s"),
    ],
)
def test_format_go(seconds: float, text: str) -> None:
    assert duration.format_go(seconds) == text


@given(st.integers(min_value=0, max_value=10**9))
def test_formatted_milliseconds_parse_to_themselves(millis: int) -> None:
    assert duration.parse(duration.format_go(millis / 1000)) == pytest.approx(millis / 1000, abs=1e-6)
