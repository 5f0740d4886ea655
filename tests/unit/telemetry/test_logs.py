import io
import json
import logging
from collections.abc import Iterator

import pytest

from vzkubelet.telemetry import logs

LOGGER = logging.getLogger("vzkubelet.pods.worker")


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in ("asyncssh", "aiohttp.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def configured(level: str = "info", form: str = "text") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, form, stream)
    return stream


def test_text_line() -> None:
    stream = configured()
    logs.bind(LOGGER, pod="default/web", container="vm").info("started in %.1f s", 1.25)
    time, _, rest = stream.getvalue().partition(" ")
    assert rest == "INFO    pods.worker: started in 1.2 s pod=default/web container=vm\n"
    assert len(time) == len("2026-11-21T12:00:00.123Z")
    assert time.endswith("Z")


def test_json_line() -> None:
    stream = configured(form="json")
    logs.bind(LOGGER, pod="default/web").warning("pull failed: %s", 'say "no"')
    line = json.loads(stream.getvalue())
    del line["time"]
    assert line == {
        "level": "warning",
        "logger": "vzkubelet.pods.worker",
        "message": 'pull failed: say "no"',
        "pod": "default/web",
    }


def test_bound_loggers_add_up_and_the_nearest_field_wins() -> None:
    stream = configured()
    outer = logs.bind(LOGGER, pod="a/b", container="x")
    logs.bind(outer, container="y").info("m")
    outer.info("m")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("m pod=a/b container=y")
    assert second.endswith("m pod=a/b container=x")


def test_field_cannot_replace_what_every_line_has() -> None:
    stream = configured(form="json")
    logs.bind(LOGGER, level="none", message="other").info("mine")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["message"]) == ("info", "mine")


@pytest.mark.parametrize("form", ["text", "json"])
def test_foreign_newline_cannot_forge_a_record(form: str) -> None:
    stream = configured(form=form)
    logs.bind(LOGGER, image="a\nb").info("refused: %s", "x\n2026-11-21T00:00:00Z INFO    daemon: all is well")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_traceback_is_kept(form: str) -> None:
    stream = configured(form=form)
    try:
        raise ValueError("why")
    except ValueError:
        LOGGER.exception("lost work")
    text = stream.getvalue()
    assert "lost work" in text
    assert "ValueError: why" in (json.loads(text)["trace"] if form == "json" else text)


def test_level_holds_and_libraries_stay_quiet_unless_debugging() -> None:
    stream = configured("info")
    LOGGER.debug("hidden")
    logging.getLogger("asyncssh").info("connected")
    assert stream.getvalue() == ""
    stream = configured("debug")
    LOGGER.debug("shown")
    logging.getLogger("asyncssh").info("connected")
    assert stream.getvalue().count("\n") == 2


def test_configuring_again_replaces_the_first_handler() -> None:
    first, second = configured(), configured()
    LOGGER.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1
