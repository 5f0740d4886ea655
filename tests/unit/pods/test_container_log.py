"""The log of a container on disk: its own ledger, readers that miss nothing, and a disk that is full."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from vzkubelet import aio, errors
from vzkubelet.model.logs import LogEntry, LogOptions, OutputStream
from vzkubelet.pods import container_log

STDOUT, STDERR = OutputStream.STDOUT, OutputStream.STDERR


class Ending:
    def __init__(self) -> None:
        self.ended = False

    def __call__(self) -> bool:
        return self.ended


async def entries(path: Path, ending: Ending | None = None, **options: object) -> list[LogEntry]:
    return [e async for e in container_log.read(path, LogOptions(**options), ending or Ending())]  # type: ignore[arg-type]


async def texts(path: Path, ending: Ending | None = None, **options: object) -> list[bytes]:
    return [entry.data for entry in await entries(path, ending, **options)]


async def test_new_writer_goes_on_at_the_exact_byte_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "0.log"
    writer = await container_log.writer(path)
    writer.append(STDOUT, b"one\ntwo")
    writer.append(STDERR, b"err\n")
    writer.close()
    whole = path.read_bytes()
    line = b"2026-11-21T12:00:00.000000000Z stdout F three and so on\n"
    for torn in range(1, len(line) + 1):
        path.write_bytes(whole + line[:torn])
        writer = await container_log.writer(path)
        complete = torn == len(line)
        assert writer.received_bytes(STDOUT) == 7 + complete * len(b"three and so on\n")
        assert writer.received_bytes(STDERR) == 4
        assert complete or path.read_bytes() == whole
        writer.close()


async def test_output_over_many_writers_is_whole(tmp_path: Path) -> None:
    path, output = tmp_path / "0.log", os.urandom(50_000).replace(b"\0", b"\n")
    for step in range(20):
        writer = await container_log.writer(path)
        start = writer.received_bytes(STDOUT)
        writer.append(STDOUT, output[start : start + 3_000])
        writer.close()
        with path.open("ab") as file:  # a crash in the middle of a line
            file.write(b"2026-11-21T12:00:00.000000000Z stdout F lost"[: step * 2])
    writer = await container_log.writer(path)
    assert writer.received_bytes(STDOUT) == len(output)
    writer.close()
    read = b"".join(e.data + (b"" if e.partial else b"\n") for e in await entries(path))
    assert read == output


async def test_full_disk_loses_nothing_and_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.log"
    writer = await container_log.writer(path)
    writer.append(STDOUT, b"before\n")
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(errors.Exhausted, match="No space left"):
        writer.append(STDOUT, b"x" * 21)
    monkeypatch.undo()
    assert writer.received_bytes(STDOUT) == 7
    writer.append(STDOUT, b"after\n")
    writer.close()
    assert await texts(path) == [b"before", b"after"]


async def test_log_that_cannot_be_opened_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "0.log").mkdir()
    with pytest.raises(errors.Unavailable, match="cannot be opened"):
        await container_log.writer(tmp_path / "0.log")
    with pytest.raises(errors.NotFound, match="no log"):
        await entries(tmp_path / "1.log")


async def test_created_log_is_empty_and_creating_it_again_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "0.log"
    await container_log.create(path)
    assert await entries(path) == []
    writer = await container_log.writer(path)
    writer.append(STDOUT, b"x\n")
    writer.close()
    await container_log.create(path)
    assert await texts(path) == [b"x"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("lines", [0, 1, 2, 999, 5_000, 19_999, 20_000, 30_000])
async def test_tail_of_a_log_that_is_larger_than_a_block(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "0.log"
    writer = await container_log.writer(path)
    wanted = [b"%d " % number + b"." * (number % 97) for number in range(20_000)]
    writer.append(STDOUT, b"".join(line + b"\n" for line in wanted))
    writer.close()
    assert path.stat().st_size > 4 * container_log.BLOCK_BYTES
    assert await texts(path, tail_lines=lines) == (wanted[-lines:] if lines else [])


async def test_tail_of_one_endless_line(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    writer = await container_log.writer(path)
    writer.append(STDOUT, b"first\n" + b"x" * 1_000_000)
    writer.close()
    assert sum(len(e.data) for e in await entries(path, tail_lines=1)) == 1_000_000


async def test_since_is_inclusive(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(
        b"".join(b"2026-11-21T12:00:0%d.000000000Z stdout F %d\n" % (second, second) for second in range(5))
    )
    moment = (await entries(path))[3].time_ns
    assert await texts(path, since_ns=moment) == [b"3", b"4"]
    assert await texts(path, since_ns=moment + 1) == [b"4"]


async def test_followers_see_every_line_and_end_with_the_container(tmp_path: Path) -> None:
    path, ending = tmp_path / "0.log", Ending()
    writer = await container_log.writer(path)
    writer.append(STDOUT, b"0\n")
    readers = [
        aio.spawn(texts(path, ending, follow=True), name="from the start"),
        aio.spawn(texts(path, ending, follow=True, tail_lines=0), name="from now on"),
    ]
    await asyncio.sleep(0.01)
    for number in range(1, 100):
        writer.append(STDOUT, b"%d\n" % number)
        if number % 3 == 0:
            await asyncio.sleep(0)
        if number % 10 == 0:
            await asyncio.sleep(0.01)
    writer.append(STDOUT, b"last\n")
    ending.ended = True
    writer.close()
    everything = [b"%d" % number for number in range(100)] + [b"last"]
    assert [await reader for reader in readers] == [everything, everything[1:]]
    container_log.forget(tmp_path)


async def test_follower_is_woken_and_does_not_wait_for_its_next_look(tmp_path: Path) -> None:
    path, ending = tmp_path / "0.log", Ending()
    writer = await container_log.writer(path)
    reading = aio.spawn(texts(path, ending, follow=True), name="follow")
    await asyncio.sleep(container_log.READER_POLL_S * 3.5)
    began = asyncio.get_running_loop().time()
    ending.ended = True
    container_log.wake(path)
    assert await reading == []
    assert asyncio.get_running_loop().time() - began < container_log.READER_POLL_S / 10
    writer.close()
    container_log.forget(tmp_path)


async def test_follower_sees_what_another_process_writes(tmp_path: Path) -> None:
    path, ending = tmp_path / "0.log", Ending()
    path.touch()
    reading = aio.spawn(texts(path, ending, follow=True), name="follow")
    await asyncio.sleep(1)
    with path.open("ab") as file:
        file.write(b"2026-11-21T12:00:00.000000000Z stdout F from afar\n")
    ending.ended = True
    assert await reading == [b"from afar"]
    container_log.forget(tmp_path)


async def test_removed_log_leaves_no_entry(tmp_path: Path) -> None:
    path, ending = tmp_path / "0.log", Ending()
    path.touch()
    reading = aio.spawn(texts(path, ending, follow=True), name="follow")
    await asyncio.sleep(0.01)
    ending.ended = True
    container_log.forget(tmp_path)
    assert await reading == []
    assert not [known for known in container_log._appended if known.is_relative_to(tmp_path)]
