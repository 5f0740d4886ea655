"""How pods of machines of Apple's framework end that are deleted, whatever the framework says to it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.apple_double import MacHost
from tests.support.vz_node import VzNode, open_node
from tests.support.vz_rows import CODES, fault, many_guests, some_at_a_time, uid_of
from vzkubelet.machines.vz.plan import Waits


@pytest.fixture
def mac(tmp_path: Path) -> MacHost:
    return MacHost(tmp_path / "mac", version=[15, 1])


@dataclass(frozen=True)
class Ending:
    """A pod is deleted: it is gone within its grace and a little, its last status tells how, nothing warns, and nothing
    is left, whatever the framework says."""

    name: str
    faults: tuple[tuple[str, dict[str, Any]], ...]
    exit_code: int
    command: tuple[str, ...] = ()


ENDINGS = [
    # Each code at both operations of an end: the guest is not asked, and does not stop; its helper ends it.
    *(Ending(f"end-{code}", (fault("request-stop", code=code), fault("stop", code=code)), 137) for code in CODES),
    Ending("request-refused", (fault("request-stop", code=4),), 137),
    Ending("request-ignored", (fault("request-stop", never=True),), 137),
    Ending("stop-never", (fault("request-stop", never=True), fault("stop", never=True)), 137),
    Ending("stop-late", (fault("request-stop", never=True), fault("stop", delay_s=0.2)), 137),
    Ending("asked", (), 0),
    Ending("process", (fault("stop", code=4),), 143, ("sleep", "infinity")),
    Ending("process-never", (fault("stop", never=True),), 143, ("sleep", "infinity")),
    *(
        Ending(
            f"{event}-{when}-stop",
            (fault("request-stop", never=True), fault("stop", event=event, event_when=when, event_text="It fell.")),
            137,
        )
        for event in ("guest-stopped", "stopped-with-error")
        for when in ("before", "after")
    ),
]


@dataclass(frozen=True)
class Outcome:
    """What is known of a pod that is gone."""

    phase: str
    exit_code: int
    message: str
    deleted: bool


async def outcome(node: VzNode, row: Ending) -> Outcome:
    uid = uid_of(row.name)
    node.bind(*row.command, uid=uid)
    await node.running(uid=uid)
    for operation, said in row.faults:
        node.mac.fail(operation, mac=node.world.machine_state(uid).mac, **said)
    await node.deleted(grace_s=1, uid=uid)
    told = node.api.last[uid]
    assert told.container_statuses is not None
    ended = told.container_statuses[0].state.terminated
    assert ended is not None
    return Outcome(told.phase, ended.exit_code, ended.message, uid in node.api.deleted)


async def test_pods_that_are_deleted(tmp_path: Path, mac: MacHost) -> None:
    async with open_node(many_guests(tmp_path, mac), waits=Waits(stop_s=0.5)) as node:
        outcomes: dict[str, Outcome] = {}
        for rows in some_at_a_time(ENDINGS):
            found = await asyncio.gather(*(outcome(node, row) for row in rows))
            outcomes |= {row.name: one for row, one in zip(rows, found, strict=True)}
        assert outcomes == {
            row.name: Outcome("Failed" if row.exit_code else "Succeeded", row.exit_code, "", True) for row in ENDINGS
        }
        assert node.warnings() == []
        assert node.leftovers() == []
