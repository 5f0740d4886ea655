"""Which reference a directory of the Go project's cache was named after."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet.errors import InvalidInput
from vzkubelet.images.go_cache import reference_of
from vzkubelet.model.reference import parse

HEX = "0123456789abcdef" * 4


def parts_of(reference: str) -> tuple[str, ...]:
    return tuple(reference.replace(":", "/").split("/"))


@pytest.mark.parametrize(
    "reference",
    [
        "registry.test/team/macos:26",
        "registry.test:5000/team/macos:26",
        "localhost:5000/macos:latest",
        "registry:5000/macos:1.2.3",
        "ghcr.io/a/b/c/d:v1",
        "localhost/macos:26",
        "macos:26",
        "library/macos:26",
        "registry.test/macos",
        "registry.test:5000/macos",
        f"registry.test/macos@sha256:{HEX}",
        f"registry.test:5000/team/macos@sha256:{HEX}",
    ],
)
def test_the_reference_comes_back(reference: str) -> None:
    assert reference_of(parts_of(reference)) == parse(reference)


_word = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)


@given(
    host=st.sampled_from(["registry.test", "ghcr.io", "localhost", "10.0.0.1"]),
    port=st.none() | st.integers(1, 65535),
    path=st.lists(_word, min_size=1, max_size=4),
    tag=st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,20}", fullmatch=True),
    digest=st.booleans(),
)
def test_any_reference_comes_back(host: str, port: int | None, path: list[str], tag: str, digest: bool) -> None:
    name = "/".join([host if port is None else f"{host}:{port}", *path])
    reference = f"{name}@sha256:{HEX}" if digest else f"{name}:{tag}"
    assert reference_of(parts_of(reference)) == parse(reference)


@pytest.mark.parametrize("parts", [("macos",), (), ("registry.test", "UPPER", "1"), ("a", "b@sha256", "short")])
def test_what_is_no_reference_is_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        reference_of(parts)
