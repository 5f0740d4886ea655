"""The log query's two ways of being wrong, and the chunks of an answer."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzkubelet import aio, errors
from vzkubelet.model.logs import LogEntry, LogOptions, OutputStream
from vzkubelet.server import container_logs
from vzkubelet.wire.log_lines import Formatter

NOW_S = 1_000_000.0


def options(**query: str) -> LogOptions:
    return container_logs.parse_query(query, NOW_S).options


def test_nothing_asked_for():
    assert container_logs.parse_query({}, NOW_S) == container_logs.LogQuery(LogOptions(), previous=False)


def test_every_option():
    query = {
        "follow": "true",
        "previous": "1",
        "timestamps": "",
        "tailLines": "+5",
        "limitBytes": "7",
        "sinceSeconds": "10",
    }
    assert container_logs.parse_query(query, NOW_S) == container_logs.LogQuery(
        LogOptions(follow=True, tail_lines=5, since_ns=999_990 * 10**9, limit_bytes=7, timestamps=True), previous=True
    )


@pytest.mark.parametrize("text", ["0", "false", "False", "FALSE"])
def test_only_these_are_false(text: str):
    assert not options(follow=text).follow


def test_since_time_to_the_microsecond():
    assert options(sinceTime="1970-01-01T01:00:00.000001+01:00").since_ns == 1000


@given(
    st.dictionaries(
        st.sampled_from(["tailLines", "tail", "limitBytes", "sinceSeconds", "sinceTime", "stream"]), st.text()
    )
)
def test_any_query_is_read_or_refused(query: dict[str, str]):
    status = 200
    try:
        container_logs.parse_query(query, NOW_S)
    except errors.InvalidInput as exc:
        status = exc.http_status
    assert status in (200, 400, 422)


def entry(data: bytes) -> LogEntry:
    return LogEntry(0, OutputStream.STDOUT, data)


async def chunks(entries: AsyncIterator[LogEntry], formatter: Formatter | None = None) -> list[bytes]:
    pump = container_logs._Pump(entries, formatter or Formatter())
    task = aio.spawn(pump.run(), name="log")
    try:
        await pump.settle(1.0)
        result = []
        while chunk := await pump.next_chunk():
            result.append(chunk)
        return result
    finally:
        await aio.cancel(task)


async def test_fast_entries_are_gathered_into_bounded_chunks():
    async def entries() -> AsyncIterator[LogEntry]:
        for _ in range(10_000):
            yield entry(b"x" * 99)

    result = await chunks(entries())
    assert sum(map(len, result)) == 1_000_000
    assert max(map(len, result)) <= container_logs.CHUNK_BYTES + 100


async def test_reading_stops_at_the_limit_and_closes_the_log():
    closed = []

    async def entries() -> AsyncIterator[LogEntry]:
        try:
            while True:
                yield entry(b"abc")
        finally:
            closed.append(True)

    assert b"".join(await chunks(entries(), Formatter(limit_bytes=10))) == b"abc\nabc\nab"
    assert closed == [True]


async def test_an_entry_without_a_byte_is_not_the_end():
    async def entries() -> AsyncIterator[LogEntry]:
        yield LogEntry(0, OutputStream.STDOUT, b"", partial=True)
        yield entry(b"more")

    assert b"".join(await chunks(entries())) == b"more\n"


async def test_an_error_before_the_first_entry_is_raised_at_once():
    async def entries() -> AsyncIterator[LogEntry]:
        raise errors.NotFound("no log")
        yield entry(b"")  # pragma: no cover

    with pytest.raises(errors.NotFound):
        await chunks(entries())


async def test_an_error_after_entries_comes_after_them():
    async def entries() -> AsyncIterator[LogEntry]:
        yield entry(b"first")
        raise errors.Unavailable("gone")

    pump = container_logs._Pump(entries(), Formatter())
    task = aio.spawn(pump.run(), name="log")
    await pump.settle(1.0)
    assert await pump.next_chunk() == b"first\n"
    with pytest.raises(errors.Unavailable):
        await pump.next_chunk()
    await task
