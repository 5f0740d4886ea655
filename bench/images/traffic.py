"""What went over the wire, from the registry's access log. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE = re.compile(r'\] "(\w+) (\S+) HTTP/[\d.]+" (\d{3}) (\d+) ')


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    status: int
    sent_bytes: int
    """By the registry."""


def requests(log: str) -> Iterator[Request]:
    for method, path, status, sent in _LINE.findall(log):
        if path != "/v2/":  # a probe whether it answers
            yield Request(method, path, int(status), int(sent))


def downloaded_bytes(log: str) -> int:
    return sum(request.sent_bytes for request in requests(log) if request.method == "GET")


def blobs_completed(log: str) -> int:
    """Uploads that became blobs. Those that a registry took over from another repository do not count."""
    return sum(
        request.method == "PUT" and "/blobs/uploads/" in request.path and request.status == 201
        for request in requests(log)
    )
