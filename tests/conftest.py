"""For all tests: the fixtures of tests/support, and what hypothesis may take."""

import asyncio
import signal
from pathlib import Path

import hypothesis

pytest_plugins = [
    f"tests.support.{path.stem}" for path in sorted((Path(__file__).parent / "support").glob("*_fixtures.py"))
]

# Machines are shared and slow: the time of one example says nothing. A failure prints the blob that repeats it.
hypothesis.settings.register_profile("shared", deadline=None, print_blob=True)
hypothesis.settings.load_profile("shared")

# Until a loop was set once, asyncio makes one for whoever asks, and a plugin asks before each test without a loop.
asyncio.set_event_loop(None)

# A shell gives SIGINT ignored to what it starts in the background, and so would we to every program under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
