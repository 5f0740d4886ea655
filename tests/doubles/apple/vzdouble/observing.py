"""Key-value observing: notifications of changes to observers that are still there."""

from typing import Any

from .subclassing import send

_NEW, _OLD = 1, 2


def notify(observed: Any, key: str, old: Any, new: Any) -> None:
    """Tell the observers of `key`, in this thread. Observers are held weakly, as Foundation does not hold them."""
    for reference, path, options, context in list(observed.__dict__.get("_observers", ())):
        observer = reference()
        if path != key or observer is None:
            continue
        change: dict[str, Any] = {"kind": 1}
        if options & _NEW:
            change["new"] = new
        if options & _OLD:
            change["old"] = old
        send(observer, "observeValueForKeyPath:ofObject:change:context:", key, observed, change, context)
