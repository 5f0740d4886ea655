"""Who is asking: client certificates first, bearer tokens second, nobody anonymous.

As the kubelet does it: the certificate's common name is the user and its organizations are the groups, the extended key
usage must allow client authentication; a token is judged by the API server (TokenReview). Verification of the chain is
TLS's work (`tls`); here its result is read, and its validity in time checked again for connections that stay open.
"""

import hashlib
from dataclasses import dataclass

import msgspec
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vzkubelet.aio import Clock
from vzkubelet.model.review import UserInfo
from vzkubelet.server.reviews import OpinionCache, Reviews

AUTHENTICATED_GROUP = "system:authenticated"
_CLIENT_USAGES = frozenset({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


@dataclass(frozen=True, slots=True)
class CertificateIdentity:
    """What a verified client certificate says. Times are seconds since the epoch."""

    user: UserInfo
    not_before: float
    not_after: float

    def valid_at(self, now: float) -> bool:
        return self.not_before <= now <= self.not_after


def read_certificate(der: bytes) -> CertificateIdentity | None:
    """None for a certificate that names no user or is not meant for clients."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        organizations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    except (ValueError, x509.ExtensionNotFound):
        return None
    if not _CLIENT_USAGES.intersection(usages) or len(names) != 1 or not names[0].value:
        return None
    return CertificateIdentity(
        with_authenticated_group(
            UserInfo(username=str(names[0].value), groups=[str(attribute.value) for attribute in organizations])
        ),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def with_authenticated_group(user: UserInfo) -> UserInfo:
    groups = user.groups or []
    if AUTHENTICATED_GROUP in groups:
        return user
    return msgspec.structs.replace(user, groups=[*groups, AUTHENTICATED_GROUP])


class Authenticator:
    """Finds out who asks. Tokens are not kept; their hashes are, for as long as an answer lives."""

    def __init__(self, reviews: Reviews | None, token_cache_s: float, clock: Clock) -> None:
        """`reviews` None = tokens are not looked at."""
        self._reviews = reviews
        self._clock = clock
        self._tokens: OpinionCache[bytes, UserInfo | None] = OpinionCache(lambda _: token_cache_s, clock.monotonic)

    async def authenticate(self, certificate: CertificateIdentity | None, authorization: str) -> UserInfo | None:
        """None = nobody we know. `authorization` is the HTTP header. Raises what `Reviews.token_review` raises."""
        if certificate is not None and certificate.valid_at(self._clock.time()):
            return certificate.user
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if self._reviews is None or scheme.lower() != "bearer" or not token:
            return None
        reviews = self._reviews
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        user = await self._tokens.get(digest, lambda: reviews.token_review(token))
        return None if user is None else with_authenticated_group(user)
