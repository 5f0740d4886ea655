"""Log output: one line per record, as text for people or as JSON for collectors, on stderr.

Rooms log through ``logging.getLogger(__name__)`` with lazy ``%`` arguments. Fields that a reader filters by (pod,
container) travel beside the message: `bind` returns a logger that adds them to every record.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

_FIELDS = "fields"
"""Attribute of a record that holds its fields."""

_CHATTY = ("asyncssh", "aiohttp.access", "asyncio")
"""Loggers of libraries that report at INFO what is wire detail to us; they speak only when DEBUG was asked for."""


class BoundLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records carry fields."""

    def __init__(self, logger: logging.Logger, fields: Mapping[str, str]) -> None:
        super().__init__(logger, dict(fields))
        self.fields = dict(fields)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = dict(kwargs.get("extra") or {})
        extra[_FIELDS] = {**self.fields, **extra.get(_FIELDS, {})}
        kwargs["extra"] = extra
        return msg, kwargs


def bind(logger: logging.Logger | BoundLogger, **fields: str) -> BoundLogger:
    """A logger that adds `fields` (``pod="ns/name"``, ``container="vm"``) to what `logger` would write."""
    if isinstance(logger, BoundLogger):
        return BoundLogger(logger.logger, {**logger.fields, **fields})
    return BoundLogger(logger, fields)


class TextFormatter(logging.Formatter):
    """``2026-11-21T12:00:00.123Z INFO    pods.worker: message pod=default/web``"""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        name = record.name.removeprefix("vzkubelet.")
        message = _one_line(record.getMessage())
        line = f"{_time(record)} {record.levelname:<7} {name}: {message}{fields}"
        trace = _trace(self, record)
        return f"{line}\n{trace}" if trace else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line; `fields` are members beside ``time``, ``level``, ``logger`` and ``message``."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        trace = _trace(self, record)
        if trace:
            line["trace"] = trace
        return self._encoder.encode(line).decode()


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send all records of `level` (a name, ``info``) and above to `stream` (stderr) as ``text`` or ``json``.

    Calling it again replaces what an earlier call set up. Warnings of the interpreter are logged too.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if getattr(handler, "set_up_here", False)]:
        root.removeHandler(old)
    handler.set_up_here = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(threshold)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(threshold if threshold <= logging.DEBUG else logging.WARNING)
    logging.captureWarnings(True)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    return getattr(record, _FIELDS, {})


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _one_line(message: str) -> str:
    """Foreign text must not be able to forge a second record."""
    return message.replace("\r", "\\r").replace("\n", "\\n")


def _plain(value: object) -> str:
    text = _one_line(str(value))
    return f'"{text}"' if " " in text or not text else text


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)
