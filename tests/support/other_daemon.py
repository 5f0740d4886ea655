"""Another process that uses a driver, to be killed without warning: it prints a word per line as it comes along."""

import asyncio
import subprocess
import sys


class OtherDaemon:
    def __init__(self, program: str, *arguments: str) -> None:
        command = [sys.executable, "-c", program, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    async def says(self, word: str) -> None:
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line.strip() == word

    def die(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


async def started_and_died(daemon: OtherDaemon) -> None:
    """Let it start its machine, then kill it."""
    try:
        await daemon.says("ready")
        await daemon.says("started")
    finally:
        daemon.die()
