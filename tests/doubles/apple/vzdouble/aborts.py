"""What would have ended, hung or corrupted a real process: a line in aborts.jsonl, then the end."""

import json
import os
import traceback

from .host import current_host


class Aborted(BaseException):
    """Stands for the end of the process where ``host.json`` says ``"on_abort": "record"``."""


def abort(kind: str, text: str, cause: BaseException | None = None) -> Aborted:
    """Record, and end this process; returns what to raise where the host only records."""
    host = current_host()
    where = traceback.format_exception(cause) if cause is not None else traceback.format_stack()[:-1]
    line = {"pid": os.getpid(), "kind": kind, "text": text, "where": "".join(where)[-4000:]}
    host.append("aborts.jsonl", json.dumps(line))
    if host.settings().on_abort == "abort":
        os.write(2, f"abort ({kind}): {text}\n{line['where']}\n".encode())
        os.abort()
    return Aborted(f"{kind}: {text}")
