"""Ways of cutting the same bytes: a protocol must come to the same events whatever the network does to it."""

from collections.abc import Callable, Iterator

Cut = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


def in_sevens(data: bytes) -> Iterator[bytes]:
    for index in range(0, len(data), 7):
        yield data[index : index + 7]


CUTS = (whole, byte_by_byte, in_sevens)
