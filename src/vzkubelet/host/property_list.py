"""Property lists that others wrote."""

import plistlib
from xml.parsers.expat import ExpatError


def parse(data: bytes) -> dict[str, object]:
    """A dictionary from XML or binary.

    Raises:
        ValueError: anything else. plistlib lets the XML parser's own exception through.
    """
    try:
        content = plistlib.loads(data)
    except (plistlib.InvalidFileException, ExpatError, OverflowError, IndexError) as exc:
        raise ValueError(f"not a property list: {exc}") from exc
    if not isinstance(content, dict):
        raise ValueError("not a property list with keys")  # noqa: TRY004 - a matter of the data
    return content
