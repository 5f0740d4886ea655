"""Requests to one repository of a registry: login, challenges, redirects, and answers as errors in our own terms.

A request is sent again only after a 401 whose challenge could be answered. 403, 404 and every other failure are
reported as they are; whether to come back later is the caller's business (`ranges` does, for blobs).
"""

from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from vzkubelet.errors import Error, Forbidden, InvalidInput, NotFound, Unavailable, clip
from vzkubelet.images.authorization import Answered, Login, parse_challenges
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.transport import READ_TIMEOUT_S, Transport, read_limited
from vzkubelet.model.reference import Reference
from vzkubelet.ports import RegistryCredential

REDIRECTS = (301, 302, 303, 307, 308)
_REDIRECT_LIMIT = 5
_SEND_LIMIT = 4
"""With a challenge answered, and once more when another request's answer was refused as well."""
_ERROR_BODY_LIMIT_BYTES = 64 * 1024
Body = Callable[[], Any]
"""Makes the body anew for each sending."""


class _ErrorEntry(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    errors: list[_ErrorEntry] = []


class Requests:
    """To the repository of `target` under one credential; `name` is what messages call it."""

    def __init__(
        self, transport: Transport, target: Reference, credential: RegistryCredential, *, push: bool = False
    ) -> None:
        self.transport = transport
        self.name = str(target)
        self._path = target.path
        self._base = transport.base_url(target.domain)
        self._credential = credential
        self._scope = f"repository:{target.path}:{'pull,push' if push else 'pull'}"
        self._login = Login(transport, credential, scope=self._scope, name=self.name)
        self._wider: dict[str, Login] = {}

    def url(self, *parts: str) -> URL:
        return self._base / "v2" / self._path / "/".join(parts)

    def is_own(self, url: URL) -> bool:
        """Whether `url` is of the registry itself: nobody else gets the login."""
        return url.origin() == self._base.origin()

    def location(self, response: aiohttp.ClientResponse) -> URL:
        """Where the Location header of an answer leads; a login may be sent there if it `is_own`.

        Raises:
            Unavailable: it is no URL. InvalidInput: nothing is sent there.
        """
        try:
            url = response.url.join(URL(response.headers["Location"], encoded=True))
            _ = url.port  # which is looked at late
        except ValueError as exc:
            what = f"{response.url.host_port_subcomponent} refers to a place that is no URL"
            raise Unavailable(f"{self.name}: {what}: {clip(str(exc))}", reason=PULL_REASON) from exc
        self.transport.check_scheme(url, self.name)
        return url

    def wider_login(self, scope: str) -> Login:
        """For requests that concern another repository as well (token specification, several scopes)."""
        if scope not in self._wider:
            wider = Login(self.transport, self._credential, scope=f"{self._scope} {scope}", name=self.name)
            self._wider[scope] = wider
        return self._wider[scope]

    async def get(self, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """A response with status 200.

        Raises:
            NotFound, Unauthenticated, Forbidden, Unavailable.
        """
        response = await self.follow(url, headers)
        if response.status != 200:
            async with response:
                raise await self.error(response, "it")
        return response

    async def follow(
        self, url: URL, headers: Mapping[str, str], *, held: bool = False, read_timeout_s: float = READ_TIMEOUT_S
    ) -> aiohttp.ClientResponse:
        """Any answer but a redirect; redirects followed, the login kept from other hosts."""
        for _ in range(_REDIRECT_LIMIT + 1):
            response = await self.send("GET", url, headers=headers, held=held, read_timeout_s=read_timeout_s)
            if response.status not in REDIRECTS or "Location" not in response.headers:
                return response
            response.release()
            url = self.location(response)
        raise Unavailable(f"{self.name}: {url.host} redirects in circles", reason=PULL_REASON)

    async def send(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = lambda: None,
        held: bool = False,
        login: Login | None = None,
        **options: Any,
    ) -> aiohttp.ClientResponse:
        """Send, and again after a challenge that can be answered. A final 401 of the registry is raised.

        `held` waits first while the host wants no requests. `login` is another one than that of the repository.
        """
        login = login or self._login
        ours = self.is_own(url)
        got_own = False
        for attempt in range(1, _SEND_LIMIT + 1):
            if held:
                await self.transport.holds.passed(url.host_port_subcomponent or "")
            authorization = await login.current() if ours else None
            sent_headers = {**(headers or {}), **({"Authorization": authorization} if authorization else {})}
            response = await self.transport.send(method, url, self.name, headers=sent_headers, data=body(), **options)
            if response.status != 401 or not ours:
                break
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            detail = await self._detail(response)
            response.release()
            if got_own or attempt == _SEND_LIMIT:
                raise login.refused(detail)
            answered = await login.answer(challenges, authorization)
            if answered is Answered.NOTHING_NEW:
                raise login.refused(detail)
            got_own = answered is Answered.ASKED
        return response

    async def error(self, response: aiohttp.ClientResponse, what: str) -> Error:
        """The error that an answer means."""
        host = response.url.host_port_subcomponent
        detail = await self._detail(response)
        because = f": {detail}" if detail else ""
        match response.status:
            case 404:
                missing = "no such image" if what == "it" else f"{what} is missing"
                return NotFound(f"{self.name}: not found: {missing} at {host}{because}", reason=PULL_REASON)
            case 401 | 403:
                return Forbidden(f"{self.name}: {host} denies access to {what}{because}", reason=PULL_REASON)
            case 400 if response.url.scheme == "http" and not detail:  # as servers answer that want TLS
                way_out = "if it wants TLS, name it by its host name: loopback is asked without"
                return Unavailable(f"{self.name}: {host} answers 400 to plain HTTP; {way_out}", reason=PULL_REASON)
            case 413:
                return InvalidInput(f"{self.name}: {host} finds {what} too large{because}", reason=PULL_REASON)
            case 429:
                return Unavailable(f"{self.name}: {host} limits the rate of requests{because}", reason=PULL_REASON)
            case status:
                return Unavailable(f"{self.name}: {host} answers {status} for {what}{because}", reason=PULL_REASON)

    async def _detail(self, response: aiohttp.ClientResponse) -> str:
        """What the registry says about it (distribution-spec, error codes); empty when it says nothing readable."""
        try:
            body = msgspec.json.decode(
                await read_limited(response, _ERROR_BODY_LIMIT_BYTES, self.name), type=_ErrorBody
            )
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Error):
            return ""
        return clip("; ".join(f"{entry.code} {entry.message}".strip() for entry in body.errors))
