"""Where an engine may be, and what its answers mean."""

from collections.abc import AsyncIterator

import pytest

from vzkubelet import errors
from vzkubelet.sidecars.engine import DEFAULT_HOST, Engine, error_of, lines


def test_default_host() -> None:
    assert Engine("").host == DEFAULT_HOST


@pytest.mark.parametrize("host", ["/var/run/docker.sock", "ssh://host", "npipe:////./pipe/docker"])
def test_host_that_is_not_understood(host: str) -> None:
    with pytest.raises(errors.InvalidInput, match="use unix:// or tcp://"):
        Engine(host)


@pytest.mark.parametrize(
    ("status", "body", "class_", "text"),
    [
        (404, b'{"message":"No such image: x"}', errors.NotFound, "No such image: x"),
        (409, b'{"message":"in use"}', errors.Conflict, "in use"),
        (400, b"plain text\n", errors.InvalidInput, "plain text"),
        (500, b'{"message":"boom"}', errors.Unavailable, "boom"),
        (503, b"", errors.Unavailable, ""),
    ],
)
def test_error(status: int, body: bytes, class_: type[errors.Error], text: str) -> None:
    fault = error_of(status, body)
    assert (type(fault), fault.message) == (class_, text)


@pytest.mark.parametrize("step", [1, 3, 100])
async def test_lines(step: int) -> None:
    stream = b'{"a":1}\r\n\n{"b":2}\nrest'

    async def chunks() -> AsyncIterator[bytes]:
        for index in range(0, len(stream), step):
            yield stream[index : index + step]

    assert [line.strip() async for line in lines(chunks())] == [b'{"a":1}', b'{"b":2}', b"rest"]
