import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet import errors

TAXONOMY = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.Error)]


def test_clip_makes_one_printable_line() -> None:
    assert errors.clip("a\nb\t\x1b[31mred\r\n") == "a b [31mred"


def test_clip_keeps_what_fits_and_marks_what_was_cut() -> None:
    assert errors.clip("x" * errors.MAX_FOREIGN_TEXT) == "x" * errors.MAX_FOREIGN_TEXT
    assert errors.clip("x" * 300, 10) == "x" * 9 + "…"


@given(st.text(max_size=400), st.integers(min_value=1, max_value=300))
def test_clip_holds_its_limit_for_any_text(text: str, limit: int) -> None:
    clipped = errors.clip(text, limit)
    assert len(clipped) <= limit
    assert clipped.isprintable()


def test_a_precise_reason_replaces_the_default() -> None:
    assert errors.NotFound("x").reason == "NotFound"
    error = errors.NotFound("no such image", reason="ErrImagePull")
    assert (error.reason, str(error), error.message) == ("ErrImagePull", "no such image", "no such image")


@pytest.mark.parametrize("cls", TAXONOMY)
def test_every_class_maps_to_kubernetes_http_and_a_shell(cls: type[errors.Error]) -> None:
    assert cls.default_reason[0].isupper()
    assert cls.default_reason.isalnum()
    assert 400 <= cls.http_status <= 599
    assert 1 <= cls.exit_code <= 125, "126 and above belong to the shell"
