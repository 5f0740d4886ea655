"""Challenges as registries send them, and plain http only where nobody can listen."""

import pytest
from yarl import URL

from vzkubelet.errors import InvalidInput
from vzkubelet.images.authorization import Challenge, parse_challenges
from vzkubelet.images.transport import Transport, is_loopback


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        ("Basic", [Challenge("basic", {})]),
        (
            'Bearer realm="https://auth.io/token",service="r.io",scope="repository:a/b:pull,push"',
            [
                Challenge(
                    "bearer",
                    {"realm": "https://auth.io/token", "service": "r.io", "scope": "repository:a/b:pull,push"},
                )
            ],
        ),
        ("BEARER Realm = https://a/t , Service=s", [Challenge("bearer", {"realm": "https://a/t", "service": "s"})]),
        ('Bearer realm="a \\"quoted\\" one"', [Challenge("bearer", {"realm": 'a "quoted" one'})]),
        (
            'Basic realm="x", Bearer realm="y"',
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})],
        ),
        ("", []),
        ('="nonsense', []),
    ],
)
def test_challenges(header: str, challenges: list[Challenge]) -> None:
    assert list(parse_challenges([header])) == challenges


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.1.1", "localhost.evil.io", "127.0.0.1.evil.io", "r.io", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("domain", "url"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("r.io", "https://r.io"),
        ("r.io:5000", "https://r.io:5000"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_scheme_of_a_registry(domain: str, url: str) -> None:
    assert str(Transport().base_url(domain)).rstrip("/") == url


def test_plain_http_anywhere_only_when_told() -> None:
    assert Transport(plain_http=True).base_url("10.0.0.1:5000").scheme == "http"
    with pytest.raises(InvalidInput, match=r"refusing plain http to cdn\.io"):
        Transport().check_scheme(URL("http://cdn.io/blob"), "r.io/a:1")
    with pytest.raises(InvalidInput):
        Transport(plain_http=True).check_scheme(URL("ftp://cdn.io/blob"), "r.io/a:1")


def test_port_that_no_host_has() -> None:
    with pytest.raises(InvalidInput, match=r"r\.io:99999 is not a registry host"):
        Transport().base_url("r.io:99999")
