"""Provisioning profiles: what Apple granted, and to whom."""

from collections.abc import Iterable
from datetime import UTC, datetime

from vzkubelet.errors import InvalidInput
from vzkubelet.host import property_list

_BEGIN, _END = b"<?xml", b"</plist>"


def check(data: bytes, name: str, entitlements: Iterable[str], identifier: str, now: float) -> None:
    """Whether the profile allows these entitlements to this bundle. Its signature is macOS' to verify.

    Raises:
        InvalidInput: it does not; macOS would kill the app at its start without saying why.
    """
    content = _content(data, name)
    expires = content.get("ExpirationDate")
    if isinstance(expires, datetime) and expires.replace(tzinfo=UTC).timestamp() <= now:
        raise InvalidInput(f"the provisioning profile {name} expired on {expires:%Y-%m-%d}; download a new one")
    granted = content.get("Entitlements")
    granted = granted if isinstance(granted, dict) else {}
    for entitlement in entitlements:
        if not granted.get(entitlement):
            raise InvalidInput(f"the provisioning profile {name} does not grant {entitlement}")
    application = granted.get("com.apple.application-identifier") or granted.get("application-identifier")
    if not isinstance(application, str):
        return
    bundle = application.partition(".")[2]  # after the team
    if bundle != identifier and not (bundle.endswith("*") and identifier.startswith(bundle[:-1])):
        raise InvalidInput(f"the provisioning profile {name} is for {bundle}: sign with --identifier {bundle}")


def _content(data: bytes, name: str) -> dict[str, object]:
    """The property list inside the CMS message, which is stored as it is."""
    begin, end = data.find(_BEGIN), data.rfind(_END)
    if begin < 0 or end < begin:
        raise InvalidInput(f"{name} is not a provisioning profile")
    try:
        return property_list.parse(data[begin : end + len(_END)])
    except ValueError as exc:
        raise InvalidInput(f"{name} is not a provisioning profile: {exc}") from exc
