"""How a registry wants to be asked: challenges of WWW-Authenticate, basic logins and bearer tokens.

Sources: RFC 9110 section 11, Distribution's token specification (``docs/spec/auth/token``, ``oauth``).
"""

import asyncio
import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

import aiohttp
import msgspec
from yarl import URL

from vzkubelet.aio import Clock, SystemClock
from vzkubelet.errors import Error, Forbidden, Unauthenticated, Unavailable, clip
from vzkubelet.images.formats.artifact import PULL_REASON
from vzkubelet.images.transport import Transport, read_limited
from vzkubelet.ports import RegistryCredential

CLIENT_ID = "macos-vz-kubelet"
_TOKEN_ANSWER_LIMIT_BYTES = 1024 * 1024
_DEFAULT_LIFETIME_S = 60
"""What the token specification says when the answer does not."""
_EXPIRY_MARGIN_S = 10.0

_PARAMETER = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*,?')
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?=\s|$|,)")


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str
    """Lower case: ``basic``, ``bearer``."""
    parameters: Mapping[str, str]


class _TokenAnswer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: int | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    expires_at_s: float


class Answered(Enum):
    """What became of a challenge."""

    NOTHING_NEW = auto()
    ASKED = auto()
    """There is something new to send, got for this request; when that is refused, all is."""
    SHARED = auto()
    """Another request has got it meanwhile."""


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all WWW-Authenticate headers; what is not one is passed over."""
    challenges: list[Challenge] = []
    for header in headers:
        position = 0
        while scheme := _SCHEME.match(header, position):
            position = scheme.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(header, position):
                position = parameter.end()
                quoted = parameter[2]
                value = parameter[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters[parameter[1].lower()] = value
            challenges.append(Challenge(scheme[1].lower(), parameters))
    return tuple(challenges)


class Login:
    """The authorization of requests to one repository under one credential.

    A request is sent with `header`; when the answer is 401, `answer` tries to do what the challenge asks for, and the
    request is sent once more. A 401 to what was asked for that very request is final. Requests under way at the same
    time share one token, and one answer of the token service when it expires: see `Answered`.
    """

    def __init__(
        self,
        transport: Transport,
        credential: RegistryCredential,
        *,
        scope: str,
        name: str,
        clock: Clock | None = None,
    ) -> None:
        self._transport = transport
        self._credential = credential
        self._scope = scope
        self._name = name
        self._clock = clock or SystemClock()
        self._basic = False
        self._token: _Token | None = None
        self._challenge: Challenge | None = None
        self._asking = asyncio.Lock()
        self._answers = 0
        self._refusal: Error | None = None

    @property
    def header(self) -> str | None:
        """The Authorization header as far as it is known; an expired token is not sent."""
        if self._basic:
            return self._basic_header()
        if self._token and self._clock.monotonic() < self._token.expires_at_s:
            return self._token.header
        return None

    async def current(self) -> str | None:
        """`header`, with an expired token replaced first: a registry that gets none may not read a body to its end.

        Raises:
            As `answer`.
        """
        if self.header is None and self._challenge is not None:
            await self.answer((self._challenge,), None)
        return self.header

    async def answer(self, challenges: Iterable[Challenge], refused: str | None) -> Answered:
        """Get what the challenges ask for. `refused` is the header that brought them.

        Raises:
            Unauthenticated, Forbidden: the token service refuses the login. Unavailable: it fails.
        """
        answers = self._answers
        async with self._asking:
            if self._answers != answers and self._refusal is not None:
                raise self._refusal  # to another request, while this one waited
            if self.header is not None and self.header != refused:
                return Answered.SHARED
            self._refusal = None
            try:
                return Answered.ASKED if await self._ask(challenges) else Answered.NOTHING_NEW
            except Error as exc:
                self._refusal = exc
                raise
            finally:
                self._answers += 1

    async def _ask(self, challenges: Iterable[Challenge]) -> bool:
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                self._token, self._challenge = await self._fetch_token(challenge), challenge
                return True
            if challenge.scheme == "basic" and self._credential.username and not self._basic:
                self._basic = True
                return True
        return False

    def refused(self, detail: str) -> Error:
        """The error for a final 401."""
        user = self._credential.username
        if self._credential == RegistryCredential():
            what = "the registry wants a login and none was given (imagePullSecrets, or docker login)"
        elif user:
            what = f'the registry refuses the login of user "{clip(user, 64)}"'
        else:
            what = "the registry refuses the identity token"
        return Unauthenticated(f"{self._name}: {what}{detail and ': ' + detail}", reason=PULL_REASON)

    def _basic_header(self) -> str:
        pair = f"{self._credential.username}:{self._credential.password}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    async def _fetch_token(self, challenge: Challenge) -> _Token:
        try:
            realm = URL(challenge.parameters["realm"])
        except ValueError as exc:
            raise Unavailable(f"{self._name}: the registry names no valid token service", reason=PULL_REASON) from exc
        self._transport.check_scheme(realm, self._name)
        fields = {"client_id": CLIENT_ID}
        if service := challenge.parameters.get("service"):
            fields["service"] = service
        asked_at = self._clock.monotonic()
        if self._credential.identity_token:
            grant = {"grant_type": "refresh_token", "refresh_token": self._credential.identity_token}
            form = {**fields, **grant, "scope": self._scope}
            response = await self._transport.send("POST", realm, self._name, data=form)
        else:
            headers = {"Authorization": self._basic_header()} if self._credential.username else {}
            # In a query each scope is a parameter of its own, in a form they are one text.
            query = [*fields.items(), *[("scope", scope) for scope in self._scope.split()]]
            response = await self._transport.send("GET", realm.update_query(query), self._name, headers=headers)
        async with response:
            parsed = await self._read_token(response, realm)
        lifetime_s = max(parsed.expires_in or _DEFAULT_LIFETIME_S, _DEFAULT_LIFETIME_S)
        return _Token(f"Bearer {parsed.token or parsed.access_token}", asked_at + lifetime_s - _EXPIRY_MARGIN_S)

    async def _read_token(self, response: aiohttp.ClientResponse, realm: URL) -> _TokenAnswer:
        match response.status:
            case 200:
                pass
            case 401:
                raise self.refused(f"{realm.host} answers 401")
            case 403:
                raise Forbidden(f"{self._name}: {realm.host} denies access: 403", reason=PULL_REASON)
            case status:
                raise Unavailable(f"{self._name}: the token service {realm.host} answers {status}", reason=PULL_REASON)
        content = await read_limited(response, _TOKEN_ANSWER_LIMIT_BYTES, self._name)
        try:
            parsed = msgspec.json.decode(content, type=_TokenAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise Unavailable(
                f"{self._name}: the token service {realm.host} answers no token", reason=PULL_REASON
            ) from exc
        if not (parsed.token or parsed.access_token):
            raise Unavailable(f"{self._name}: the token service {realm.host} answers no token", reason=PULL_REASON)
        return parsed
