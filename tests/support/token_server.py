"""A token service as Distribution's registry trusts it: signed tokens for basic logins and for identity tokens."""

import base64
import datetime
import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

ISSUER = "token server of the tests"
SERVICE = "registry of the tests"


class TokenServer:
    """Serves ``/token`` on a free loopback port while entered; `registry_auth` is for the registry's configuration."""

    def __init__(self, directory: Path, *, username: str, password: str, identity_token: str) -> None:
        self._bundle = directory / "token-ca.pem"
        self._login = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        self._identity_token = identity_token
        self.lifetime_s = 300
        """0 = every token has expired when it arrives."""
        self.asked: list[dict[str, str]] = []
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._certificate = self._make_certificate()
        self._bundle.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_get("/token", self._get)
        application.router.add_post("/token", self._post)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.realm = f"http://127.0.0.1:{self._runner.addresses[0][1]}/token"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def registry_auth(self) -> dict[str, object]:
        token = {"realm": self.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(self._bundle)}
        return {"auth": {"token": token}}

    async def _get(self, request: web.Request) -> web.Response:
        self.asked.append({**request.query, "scope": " ".join(request.query.getall("scope", [])), "method": "GET"})
        if request.headers.get("Authorization") != self._login:
            return web.json_response({"details": "who are you"}, status=401)
        token = self._token(request.query.getall("scope", []))  # none: a login is only tried
        return web.json_response({"token": token, "expires_in": self.lifetime_s})

    async def _post(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append({**form, "method": "POST"})
        if form.get("grant_type") != "refresh_token" or form.get("refresh_token") != self._identity_token:
            return web.json_response({"error": "invalid_grant"}, status=401)
        token = self._token(form.get("scope", "").split())
        return web.json_response({"access_token": token, "expires_in": self.lifetime_s})

    def _token(self, scopes: Sequence[str]) -> str:
        """A JSON web token with the certificate in its header (Distribution, ``docs/spec/auth/jwt``)."""
        parts = [scope.split(":") for scope in scopes]
        now = int(time.time())
        certificate = base64.b64encode(self._certificate.public_bytes(Encoding.DER)).decode()
        claims = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": "tester",
            "nbf": now - 600,
            "iat": now - 600,
            # The registry allows 60 s of skew.
            "exp": now + self.lifetime_s if self.lifetime_s else now - 120,
            "jti": secrets.token_hex(8),
            "access": [{"type": kind, "name": name, "actions": actions.split(",")} for kind, name, actions in parts],
        }
        signed = f"{_part({'typ': 'JWT', 'alg': 'RS256', 'x5c': [certificate]})}.{_part(claims)}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"

    def _make_certificate(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )


def _part(document: dict[str, Any]) -> str:
    return _base64(json.dumps(document).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
