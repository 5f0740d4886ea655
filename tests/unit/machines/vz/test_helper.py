"""What ends a helper besides its guest, in virtual time; its lock and its plan."""

import asyncio
import os
from pathlib import Path

import pytest

from vzkubelet.errors import AlreadyExists, InvalidInput, NotFound
from vzkubelet.machines.directory import MachineDirectory
from vzkubelet.machines.vz import helper
from vzkubelet.machines.vz.helper import _Life, own, read_plan


class Session:
    """As much of a session as `_Life` looks at."""

    def __init__(self) -> None:
        self.is_unused = True
        self.abandoned: list[str] = []
        self.killed = 0
        self.lost: list[str] = []

    def abandon(self, why: str) -> None:
        self.abandoned.append(why)

    async def kill(self) -> None:
        self.killed += 1

    def network_lost(self, fault: str) -> None:
        self.lost.append(fault)


class Server:
    clients = 0


class Carrier:
    """A packet filter that ends when told."""

    ended = ""

    def fault(self) -> str:
        return self.ended


def life(session: Session, server: Server) -> _Life:
    return _Life(session, server)  # type: ignore[arg-type]


async def test_a_helper_that_nobody_uses_ends_by_itself() -> None:
    session = Session()
    life(session, Server()).watch_idleness()
    await asyncio.sleep(helper._IDLE_S - 1)
    assert not session.abandoned
    await asyncio.sleep(2)
    assert "its daemon died" in session.abandoned[0]


async def test_a_client_keeps_an_unused_helper_until_it_goes() -> None:
    session, server = Session(), Server()
    watched = life(session, server)
    watched.watch_idleness()
    server.clients = 1
    watched.watch_idleness()
    await asyncio.sleep(10 * helper._IDLE_S)
    assert not session.abandoned
    server.clients = 0
    watched.watch_idleness()
    await asyncio.sleep(helper._IDLE_S + 1)
    assert len(session.abandoned) == 1


async def test_a_helper_whose_guest_runs_needs_no_client() -> None:
    session = Session()
    session.is_unused = False
    watched = life(session, Server())
    watched.watch_idleness()
    await asyncio.sleep(10 * helper._IDLE_S)
    assert not session.abandoned
    session.is_unused = True  # a restore that failed after its client had gone
    await asyncio.sleep(helper._IDLE_S + 1)
    assert len(session.abandoned) == 1
    session.is_unused = False


async def test_two_signals_kill_once() -> None:
    session = Session()
    watched = life(session, Server())
    watched.kill("SIGTERM")
    watched.kill("SIGTERM")
    await asyncio.sleep(0)
    assert session.killed == 1


async def test_the_end_of_the_parent_ends_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    monkeypatch.setattr(os, "getppid", lambda: 42)
    watching = asyncio.ensure_future(life(session, Server()).watch_parent(42))  # noqa: TID251
    await asyncio.sleep(10)
    assert session.killed == 0
    monkeypatch.setattr(os, "getppid", lambda: 1)
    await watching
    await asyncio.sleep(0)
    assert session.killed == 1


async def test_the_end_of_a_packet_filter_is_told() -> None:
    session, carrier = Session(), Carrier()
    watching = asyncio.ensure_future(life(session, Server()).watch_filter(carrier))  # type: ignore[arg-type] # noqa: TID251
    await asyncio.sleep(10)
    assert not session.lost
    carrier.ended = "it fell"
    await watching
    assert session.lost == ["it fell"]


def test_the_owner_of_a_directory_is_named(tmp_path: Path) -> None:
    directory = MachineDirectory(tmp_path)
    lock = own(directory)
    with pytest.raises(AlreadyExists, match=f"process {os.getpid()}"):
        own(directory)
    os.close(lock)
    os.close(own(directory))


def test_a_directory_that_is_not_there_has_no_owner(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        own(MachineDirectory(tmp_path / "none"))


@pytest.mark.parametrize(("content", "kind"), [(None, NotFound), (b"[]", InvalidInput), (b"\xff", InvalidInput)])
def test_a_plan_that_is_none_is_told(tmp_path: Path, content: bytes | None, kind: type[Exception]) -> None:
    directory = MachineDirectory(tmp_path)
    if content is not None:
        directory.plan.write_bytes(content)
    with pytest.raises(kind, match=r"vz\.json"):
        read_plan(directory)
