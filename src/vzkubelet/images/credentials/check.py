"""Whether a registry takes a login, found out as ``docker login`` does: by asking for its root."""

import ssl

from yarl import URL

from vzkubelet.errors import Unavailable
from vzkubelet.images.authorization import Answered, Login, parse_challenges
from vzkubelet.images.transport import Transport
from vzkubelet.model.docker_config import RegistryCredential

_ATTEMPTS = 3
"""Without a header, with one, and once more where a token was too short-lived."""


async def check(
    domain: str, login: RegistryCredential, *, plain_http: bool = False, tls: ssl.SSLContext | None = None
) -> None:
    """`domain` is a registry as in a reference: ``docker.io``, or a host with its port.

    Raises:
        Unauthenticated, Forbidden: the login is refused. Unavailable: no registry answers there. InvalidInput: no host
        has that name, or it would have to be asked without TLS.
    """
    transport = Transport(plain_http=plain_http, tls=tls)
    try:
        await _check(transport, domain, login)
    finally:
        await transport.close()


async def _check(transport: Transport, domain: str, credential: RegistryCredential) -> None:
    url = transport.base_url(domain) / "v2" / ""
    login = Login(transport, credential, scope="", name=domain)
    for _ in range(_ATTEMPTS):
        header = login.header
        status, challenges = await _asked(transport, url, domain, header)
        if status != 401:
            break
        if await login.answer(parse_challenges(challenges), header) is Answered.NOTHING_NEW:
            raise login.refused("")
    else:
        raise login.refused("")
    if status != 200:
        raise Unavailable(f"{domain} is no registry: it answers {status} for {url.path}")


async def _asked(transport: Transport, url: URL, name: str, header: str | None) -> tuple[int, list[str]]:
    response = await transport.send("GET", url, name, headers={"Authorization": header} if header else {})
    async with response:
        return response.status, response.headers.getall("WWW-Authenticate", [])
