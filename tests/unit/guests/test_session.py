"""One session's back pressure and ends, with the channel played by the test."""

import asyncio

import asyncssh
import pytest

from vzkubelet.aio import spawn
from vzkubelet.errors import Unavailable
from vzkubelet.guests.session import DRAIN_BYTES, DRAIN_QUIET_S, QUEUE_BYTES, Session, signal_number
from vzkubelet.ports import ExitStatus, OutputStream


class Channel:
    """What a session uses of asyncssh's channel."""

    def __init__(self) -> None:
        self.reading = True
        self.closing = False
        self.written = bytearray()

    def set_write_buffer_limits(self, high: int) -> None: ...

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written += data


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def session(channel: Channel) -> Session:
    made = Session()
    made.connection_made(channel)  # type: ignore[arg-type]
    return made


OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR


async def test_output_comes_in_order_and_joined_by_stream(session: Session) -> None:
    for data, kind in ((b"a", None), (b"b", None), (b"c", asyncssh.EXTENDED_DATA_STDERR), (b"d", None)):
        session.data_received(data, kind)
    session.exit_status_received(3)
    session.connection_lost(None)
    assert [await session.read() for _ in range(4)] == [(OUT, b"ab"), (ERR, b"c"), (OUT, b"d"), None]
    assert session.status == ExitStatus(3)


async def test_a_reader_that_falls_behind_pauses_the_channel(session: Session, channel: Channel) -> None:
    session.data_received(b"x" * QUEUE_BYTES, None)
    assert channel.reading
    session.data_received(b"x", None)
    assert not channel.reading
    await session.read()
    assert channel.reading


async def test_after_the_commands_end_silence_ends_the_session(session: Session) -> None:
    session.exit_status_received(0)
    session.data_received(b"late", None)
    assert await session.read() == (OUT, b"late")
    begun = asyncio.get_running_loop().time()
    assert await session.read() is None
    assert asyncio.get_running_loop().time() - begun == pytest.approx(DRAIN_QUIET_S)


async def test_the_end_of_a_command_is_noticed_by_a_waiting_reader(session: Session) -> None:
    reading = spawn(session.read(), name="reader")
    await asyncio.sleep(60)
    assert not reading.done()
    session.exit_signal_received("KILL", False, "", "")
    assert await reading is None
    assert session.status == ExitStatus(137, 9)


async def test_children_that_write_for_ever_are_cut_off(session: Session) -> None:
    session.exit_status_received(0)
    taken = 0
    while True:
        session.data_received(b"x" * 65536, None)
        chunk = await session.read()
        if chunk is None:
            break
        taken += len(chunk[1])
    assert DRAIN_BYTES <= taken < DRAIN_BYTES + 2 * 65536


async def test_what_was_received_before_a_close_is_never_cut_off(session: Session) -> None:
    session.exit_status_received(0)
    for _ in range(3):
        session.data_received(b"x" * DRAIN_BYTES, None)
    session.connection_lost(None)
    assert await session.read() == (OUT, b"x" * 3 * DRAIN_BYTES)


async def test_a_writer_waits_for_room_and_learns_of_the_end(session: Session, channel: Channel) -> None:
    session.pause_writing()
    writing = spawn(session.write(b"data"), name="writer")
    await asyncio.sleep(1)
    assert not channel.written
    session.resume_writing()
    await writing
    assert channel.written == b"data"
    session.connection_lost(None)
    with pytest.raises(Unavailable):
        await session.write(b"more")


async def test_a_failure_reaches_the_reader(session: Session) -> None:
    reading = spawn(session.read(), name="reader", on_crash=lambda _: None)
    await asyncio.sleep(0)
    session.fail(Unavailable("the peer"))
    with pytest.raises(Unavailable, match="the peer"):
        await reading


def test_signals_have_numbers() -> None:
    assert (signal_number("TERM"), signal_number("KILL"), signal_number("made-up")) == (15, 9, 0)
