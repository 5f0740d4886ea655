"""Which images that are on the host already a pod may use only with credentials for them (KEP-2535).

The policies are the kubelet's ``imagePullCredentialsVerificationPolicy``.
"""

from collections.abc import Sequence

from vzkubelet.config import CredentialVerification
from vzkubelet.errors import InvalidInput, clip
from vzkubelet.model import reference

_SETTING = "--preloaded-images-verification-allowlist"


class Verification:
    """One policy. The allow list counts for NeverVerifyAllowlistedImages only."""

    def __init__(self, policy: CredentialVerification, allowlist: Sequence[str] = ()) -> None:
        """Raises InvalidInput: an entry of the allow list that the kubelet would refuse, or a list for another
        policy."""
        if allowlist and policy is not CredentialVerification.NEVER_ALLOWLISTED:
            raise InvalidInput(
                f"{_SETTING} needs the policy {CredentialVerification.NEVER_ALLOWLISTED}, and it is {policy}"
            )
        self._policy = policy
        patterns = [_pattern(entry) for entry in allowlist]
        self._images = frozenset(pattern for pattern in patterns if not pattern.endswith("/"))
        self._prefixes = tuple(pattern for pattern in patterns if pattern.endswith("/"))

    def is_needed(self, image: str, *, pulled_for_pods: bool) -> bool:
        """`image` as in the pod's spec; `pulled_for_pods` = by an agent, and not by a person or before."""
        match self._policy:
            case CredentialVerification.NEVER:
                return False
            case CredentialVerification.NEVER_PRELOADED:
                return pulled_for_pods
            case CredentialVerification.NEVER_ALLOWLISTED:
                name = _untagged(image)
                return name not in self._images and not name.startswith(self._prefixes)
            case CredentialVerification.ALWAYS:
                return True


def _pattern(entry: str) -> str:
    """A repository, or a prefix that ends with a slash."""
    shown = clip(entry)
    if entry != entry.strip():
        raise InvalidInput(f"{_SETTING}: leading/trailing spaces are not allowed: {shown}")
    prefix = entry[:-1] if entry.endswith("/*") else entry
    if not prefix:
        raise InvalidInput(f"{_SETTING}: the supplied pattern is too short: {shown}")
    if "*" in prefix:
        raise InvalidInput(
            f"{_SETTING}: not a valid wildcard pattern, only patterns ending with '/*' are allowed: {shown}"
        )
    if prefix != entry:
        if prefix == "/":
            raise InvalidInput(f"{_SETTING}: at least registry hostname is required")
        return prefix
    try:
        reference.parse(entry)
    except InvalidInput as exc:
        raise InvalidInput(f"{_SETTING}: failed to parse as an image name: {exc}") from exc
    if _untagged(entry) != entry:
        raise InvalidInput(f"{_SETTING}: neither tag nor digest is accepted in an image reference: {shown}")
    return entry


def _untagged(image: str) -> str:
    """Without tag and digest, and otherwise as it is written: short names fit short names only, as in the kubelet."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]
