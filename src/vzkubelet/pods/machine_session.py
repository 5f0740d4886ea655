"""One pod's machine while this process knows it: boot, the connection to its guest, and the watch over its end."""

import asyncio
import logging
import os
from collections.abc import Coroutine
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vzkubelet import aio, errors, files, ports
from vzkubelet.aio import Clock
from vzkubelet.model.identity import PodRef
from vzkubelet.pods import container_log
from vzkubelet.pods.directory import PodDirectories, read_json
from vzkubelet.pods.machine_limit import MachineLimit
from vzkubelet.pods.machine_state import MachineContainer, Phase, Process, container_id

_log = logging.getLogger(__name__)

ADDRESS_DEADLINE_S = 300.0
"""From power-on to the guest's address. A first boot of a macOS guest takes minutes on a busy host."""
SYNC_DEADLINE_S = 5.0
"""How long a guest may take to write its shares back before it is switched off."""
CONSOLE_POLL_S = 0.5
STOP_NOTICE_S = 2.0
"""A guest that powers off drops its connection before its machine has ended: wait this long to tell the two apart."""
LOG_RETRY_S = 5.0
WATCH_RETRY_S = 5.0
KILLED = 137
CONSOLE_TAIL_BYTES = 300
KEPT_LOGS = 2
"""The log of the attempt that runs and of the one before, which ``kubectl logs --previous`` shows."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a machine container is made of."""

    driver: ports.MachineDriver
    images: ports.MachineImages
    guests: ports.Guests
    directories: PodDirectories
    clock: Clock
    limit: MachineLimit = field(default_factory=MachineLimit)
    login_deadline_s: float = 300.0
    """From the guest's address to the first login."""


class Session:
    """All calls for one pod. `ended` is set when the container has exited and its state file says how."""

    def __init__(self, parts: Parts, pod: PodRef) -> None:
        self._parts = parts
        self._pod = pod
        self._directory = parts.directories.of(pod.uid)
        self._guest: ports.Guest | None = None
        self._guest_lock = asyncio.Lock()
        self._monitor: asyncio.Task[None] | None = None
        self._os = ""
        self._stop_asked = False
        self._asking = asyncio.Lock()
        self._was_asked = False
        self.ended = asyncio.Event()

    # --- From nothing to a running container ------------------------------------------------------------------------

    async def prepare(self, spec: ports.ContainerSpec, image: ports.MachineImage, machine: ports.MachineSpec) -> str:
        """A booted guest with its mounts, for this attempt; returns its address. Goes on where an earlier call was."""
        state = load(self._directory.container_file(spec.name))
        if state is not None and state.attempt == spec.attempt and state.phase is not Phase.PREPARING:
            return state.address  # an earlier daemon started it and was killed before it could say so
        if state is None or state.attempt != spec.attempt:
            await self._discard()
            state = MachineContainer(
                spec.name,
                spec.attempt,
                container_id(self._parts.driver.name, self._pod.uid, spec.name, spec.attempt),
                image.image_id,
                image.os,
                log=str(spec.log_path or self._directory.log_file(spec.name, spec.attempt)),
            )
            await self._save(state)
            self._drop_old_logs(spec.name, spec.attempt)
        try:
            address = await self._boot(machine)
            guest = await self.guest()
            mounts = [
                ports.GuestMount(f"v{index}", mount.mount_path, read_only=mount.read_only)
                for index, mount in enumerate(spec.mounts)
            ]
            with self._traced("guest prepare"):
                await guest.prepare(spec.hostname, mounts)
        except errors.Error as exc:
            await self._discard()
            if exc.reason == errors.MACHINE_LIMIT_REASON:
                self._parts.limit.reached(exc.message, image.os)
                raise
            raise type(exc)(f"{exc.message}", reason="CreateContainerError") from exc
        await self._save(msgspec.structs.replace(state, address=address.ip))
        return address.ip

    async def _boot(self, machine: ports.MachineSpec) -> ports.GuestAddress:
        driver, uid = self._parts.driver, self._pod.uid
        try:
            phase = (await driver.status(uid)).phase
        except errors.NotFound:
            with self._traced("machine create"):
                await driver.create(machine)
            phase = ports.MachinePhase.CREATED
        if phase is ports.MachinePhase.STOPPED:  # it died while no daemon looked; a boot begins with a fresh clone
            await driver.delete(uid)
            await driver.create(machine)
            phase = ports.MachinePhase.CREATED
        if phase is ports.MachinePhase.CREATED:
            with self._traced("machine start"):
                await driver.start(uid)
            self._parts.limit.freed(machine.image.os)
        with self._traced("machine address"):
            return await self._while_machine_runs(self._address())

    async def _address(self) -> ports.GuestAddress:
        try:
            async with asyncio.timeout(ADDRESS_DEADLINE_S):
                return await self._parts.driver.address(self._pod.uid)
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(
                f"the guest had no address {ADDRESS_DEADLINE_S:.0f} s after power-on{self._console_tail()}"
            ) from exc

    async def _while_machine_runs(self, work: Coroutine[Any, Any, ports.GuestAddress]) -> ports.GuestAddress:
        working = aio.spawn(work, name=f"boot of {self._pod.key}", on_crash=lambda _: None)
        waiting = self._parts.driver.wait(self._pod.uid)
        stopped = aio.spawn(waiting, name=f"stop in boot of {self._pod.key}", on_crash=lambda _: None)
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and not isinstance(working.exception(), errors.Conflict):
                return working.result()
            fault = (await stopped).fault or "the guest powered off"  # Conflict: it does not run any more
            hint = self._console_tail() or "; its console is empty: start the image with `macos-vz-kubelet run` to see"
            raise errors.MachineFault(f"the virtual machine stopped while booting: {fault}{hint}")
        finally:
            await aio.cancel(working, stopped)

    def _console_tail(self) -> str:
        console = _read_at(self._parts.driver.console(self._pod.uid), -CONSOLE_TAIL_BYTES)
        text = errors.clip(console.decode(errors="replace"))
        return f"; the console ends with: {text}" if text else ""

    async def start(self, spec: ports.ContainerSpec, process: Process | None) -> MachineContainer:
        """Launch the process (or take the machine itself as the process) and watch over it."""
        state = load(self._directory.container_file(spec.name))
        assert state is not None, "prepare comes first"
        if state.phase is not Phase.PREPARING:
            self.adopt(state)
            return state
        await container_log.create(Path(state.log))
        if process is not None:
            try:
                guest = await self.guest()
                with self._traced("process start"):
                    await guest.start(process.port())
            except errors.Error as exc:
                if exc.reason == "StartError":
                    await self._discard()  # this attempt is over, and the next gets a machine of its own
                    raise
                raise type(exc)(exc.message, reason="RunContainerError") from exc
        state = msgspec.structs.replace(
            state, phase=Phase.RUNNING, process=process, started_at=self._parts.clock.time()
        )
        await self._save(state)
        self.adopt(state)
        return state

    def _traced(self, step: str) -> AbstractContextManager[None]:
        return aio.traced(_log, step, pod=self._pod.key)

    # --- While it runs ------------------------------------------------------------------------------------------------

    def adopt(self, state: MachineContainer) -> None:
        """Watch over a container if it runs; calling it again does nothing."""
        if self._monitor is None and state.phase is Phase.RUNNING:
            self._os = state.os
            self.ended.clear()
            self._monitor = aio.spawn(self._watch(state), name=f"watch {state.name} of {self._pod.key}")

    @property
    def running_os(self) -> str:
        """The operating system of the guest that runs, as far as this process knows; empty when none does."""
        return self._os if self._monitor is not None and not self._monitor.done() else ""

    async def guest(self) -> ports.Guest:
        """The channel into the guest, connected on first use."""
        async with self._guest_lock:
            if self._guest is None:
                driver = self._parts.driver
                with self._traced("guest connect"):
                    address = await driver.address(self._pod.uid)
                    host_key = driver.host_key(self._pod.uid)
                    self._guest = await self._parts.guests.connect(address, host_key, self._parts.login_deadline_s)
            return self._guest

    async def _watch(self, state: MachineContainer) -> None:
        """Until the container has ended and its state file says how; what fails on the way is tried again."""
        while True:
            try:
                # How it ended is on disk before the machine goes: a daemon that is killed in between has not lost it.
                await self._save(await self._until_exit(state))
                break
            except errors.Error as exc:
                _log.warning("container %s of pod %s is not watched, trying again: %s", state.name, self._pod.key, exc)
            except Exception:  # noqa: BLE001 - a bug, which must not hide the container's end for ever
                _log.exception("container %s of pod %s is not watched, trying again", state.name, self._pod.key)
            await asyncio.sleep(WATCH_RETRY_S)
        await self._switch_off(state)
        container_log.wake(Path(state.log))
        self.ended.set()

    async def _until_exit(self, state: MachineContainer) -> MachineContainer:
        log = await container_log.writer(Path(state.log))
        following = aio.spawn(self._follow(state, log), name=f"output of {self._pod.key}", on_crash=lambda _: None)
        waiting = self._parts.driver.wait(self._pod.uid)
        stopped = aio.spawn(waiting, name=f"machine of {self._pod.key}", on_crash=lambda _: None)
        try:
            await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if state.process is None and stopped.done():
                await asyncio.wait({following})  # the console is a file on this host: it is read to its end
            if following.done() and following.exception() is not None:
                await asyncio.wait({stopped}, timeout=STOP_NOTICE_S)
            return self._outcome(state, following, stopped)
        finally:
            await aio.cancel(following, stopped)
            log.close()

    def _outcome(
        self,
        state: MachineContainer,
        following: "asyncio.Task[ports.ExitStatus | None]",
        stopped: "asyncio.Task[ports.MachineStatus]",
    ) -> MachineContainer:
        now = self._parts.clock.time()
        fault = following.exception() if following.done() else None
        status = following.result() if following.done() and fault is None else None
        if status is not None:
            return state.exited(status.code, status.signal, "Completed" if status.code == 0 else "Error", "", now)
        if not stopped.done():
            return state.exited(KILLED, 9, "Error", f"the guest was lost: {fault}", now)
        if isinstance(stopped.exception(), errors.NotFound):
            return state.exited(KILLED, 9, "ContainerStatusUnknown", "the virtual machine is gone", now)
        machine = stopped.result()
        finished_at = machine.stopped_at or now
        if machine.fault and not self._stop_asked:
            return state.exited(KILLED, 9, "Error", f"the virtual machine stopped: {machine.fault}", finished_at)
        if machine.fault:
            return state.exited(KILLED, 9, "Error", "", finished_at)
        if state.process is None:
            return state.exited(0, 0, "Completed", "", finished_at)
        return state.exited(KILLED, 9, "Error", "the guest powered off while the process was running", finished_at)

    async def _follow(self, state: MachineContainer, log: container_log.Writer) -> ports.ExitStatus | None:
        while True:
            try:
                if state.process is None:
                    await self._follow_console(log)
                    return None
                return await (await self.guest()).follow(state.process.id, log)
            except errors.Exhausted as exc:  # the output waits where it is until there is room for it
                _log.warning("log of pod %s: %s; trying again", self._pod.key, exc)
                await asyncio.sleep(LOG_RETRY_S)

    async def _follow_console(self, log: container_log.Writer) -> None:
        """Copy the console file until the machine has stopped and all of it is in the log."""
        driver, uid = self._parts.driver, self._pod.uid
        console = driver.console(uid)
        stdout = ports.OutputStream.STDOUT
        while True:
            running = (await driver.status(uid)).phase is ports.MachinePhase.RUNNING
            block = await aio.run_blocking(_read_at, console, log.received_bytes(stdout))
            if block:
                log.append(stdout, block)
            elif not running:
                return
            else:
                await asyncio.sleep(CONSOLE_POLL_S)

    async def _switch_off(self, state: MachineContainer) -> None:
        """The process has ended, so its machine goes too; what it wrote to its volumes is written back first."""
        guest = self._guest
        if guest is not None:
            try:
                async with asyncio.timeout(SYNC_DEADLINE_S):
                    await guest.exec(ports.ExecRequest(("sync",)), None, _Silent())
            except (TimeoutError, errors.Error) as exc:
                _log.debug("guest of %s not synced: %s", self._pod.key, exc)
        try:
            await self._parts.driver.kill(self._pod.uid)
        except errors.Error as exc:
            _log.warning("machine of pod %s is not switched off, it goes with its container: %s", self._pod.key, exc)
        else:
            self._parts.limit.freed(state.os)

    # --- The end ------------------------------------------------------------------------------------------------------

    async def stop(self, state: MachineContainer, grace_s: float) -> None:
        """Ask, wait at most `grace_s`, then switch off. Returns when the container has exited."""
        self._stop_asked = True
        self.adopt(state)
        asking = aio.spawn(self._ask(state), name=f"ask {self._pod.key} to stop")
        try:
            async with asyncio.timeout(grace_s):
                await self.ended.wait()
        except TimeoutError:
            with suppress(errors.NotFound):  # the watch over it tells how a machine that is gone has ended
                await self._parts.driver.kill(self._pod.uid)
            await self.ended.wait()
        finally:
            await aio.cancel(asking)

    async def _ask(self, state: MachineContainer) -> None:
        """Once, however many stops wait: a second SIGTERM means something else to many programs."""
        try:
            async with self._asking:
                if self._was_asked:
                    return
                if state.process is not None:
                    await (await self.guest()).signal(state.process.id, 15)
                else:
                    await self._parts.driver.power_off(self._pod.uid)
                    await (await self.guest()).shut_down()
                self._was_asked = True
        except errors.Error as exc:
            _log.debug("guest of %s cannot be asked to stop: %s", self._pod.key, exc)

    async def close(self) -> None:
        """Let go: the machine runs on."""
        await aio.cancel(self._monitor)
        self._monitor = None
        if self._guest is not None:
            guest, self._guest = self._guest, None
            await guest.close()

    async def _discard(self) -> None:
        """Forget the machine of an earlier attempt."""
        await self.close()
        await self._parts.driver.delete(self._pod.uid)
        self._stop_asked = self._was_asked = False
        self.ended.clear()

    async def _save(self, state: MachineContainer) -> None:
        path = self._directory.container_file(state.name)
        await aio.run_blocking(files.write_atomic, path, msgspec.json.encode(state))

    def _drop_old_logs(self, name: str, attempt: int) -> None:
        for entry in files.children(self._directory.log_directory(name)):
            if int(Path(entry).stem) <= attempt - KEPT_LOGS:
                (self._directory.log_directory(name) / entry).unlink(missing_ok=True)


def load(path: Path) -> MachineContainer | None:
    """What is known of a container. A damaged file is as good as none: the container counts as lost."""
    try:
        return read_json(path, MachineContainer)
    except errors.Integrity as exc:
        _log.error("state of a container is lost: %s", exc)
        return None


class _Silent:
    """Streams that nobody listens to."""

    def stdin(self) -> None:
        return None

    def resizes(self) -> None:
        return None

    async def write_stdout(self, data: bytes) -> None:
        return None

    async def write_stderr(self, data: bytes) -> None:
        return None


def _read_at(path: Path, offset: int) -> bytes:
    """A block of the file; a negative offset counts from the file's end. Empty when there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(offset if offset >= 0 else max(0, file.seek(0, os.SEEK_END) + offset))
            return file.read(container_log.BLOCK_BYTES)
    except FileNotFoundError:
        return b""
