"""TLS of the API: serving certificate and client CA from files that may change while we serve.

TLS 1.2 at least, HTTP/1.1 only (the streams need it). A client certificate is asked for and not required; one that does
not verify ends the handshake, where Go's kubelet would go on and look for a token.
"""

import logging
import shlex
import ssl
from pathlib import Path
from typing import Final

from vzkubelet.errors import InvalidInput

_log = logging.getLogger(__name__)

MIN_VERSION: Final = ssl.TLSVersion.TLSv1_2


class ServingContext:
    """An SSL context whose files are looked at for each new connection; a change is used from then on.

    Files that cannot be used (a certificate whose key is still being written) leave the last good ones in place.
    """

    def __init__(self, cert_file: Path, key_file: Path, client_ca_file: Path | None) -> None:
        """Raises InvalidInput."""
        self._cert_file, self._key_file, self._client_ca_file = cert_file, key_file, client_ca_file
        self._versions = self._file_versions()
        self._current = self._load()
        self.context = self._load()
        """What to listen with. It hands each connection to the current files."""
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _listening: ssl.SSLContext) -> None:
        self._reload_if_changed()
        connection.context = self._current

    def _reload_if_changed(self) -> None:
        versions = self._file_versions()
        if versions == self._versions:
            return
        try:
            self._current = self._load()
        except InvalidInput as exc:
            _log.warning("keeping the old serving certificate: %s", exc)
            return
        self._versions = versions
        _log.info("serving certificate and client CA reloaded from %s", self._cert_file)

    def _file_versions(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(
            _file_version(path) for path in (self._cert_file, self._key_file, self._client_ca_file) if path is not None
        )

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = MIN_VERSION
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0  # no resumption: every connection is verified against the CA of today
        context.set_alpn_protocols(["http/1.1"])
        load_pair(context, self._cert_file, self._key_file)
        if self._client_ca_file is not None:
            load_client_ca(context, self._client_ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Raises: InvalidInput; nobody is asked for a passphrase."""
    is_encrypted = False

    def no_passphrase() -> str:
        nonlocal is_encrypted
        is_encrypted = True
        return ""  # refused by OpenSSL as too short or wrong

    try:
        context.load_cert_chain(certificate, key, password=no_passphrase)
    except (OSError, ssl.SSLError) as exc:
        if is_encrypted:
            raise InvalidInput(encrypted(key)) from exc
        raise InvalidInput(f"serving certificate {certificate} with key {key}: {exc}") from exc


def load_client_ca(context: ssl.SSLContext, file: Path) -> None:
    """Raises: InvalidInput."""
    try:
        context.load_verify_locations(file)
    except (OSError, ssl.SSLError) as exc:
        raise InvalidInput(
            f"the client CA {file} (--client-verify-ca) has no PEM certificate that can be used: {exc}"
        ) from exc


def encrypted(key: Path) -> str:
    """What is told about a key with a passphrase."""
    quoted = shlex.quote(str(key))
    return (
        f"the key {key} is encrypted; the agent needs it without a passphrase: "
        f"openssl pkey -in {quoted} -out plain.key && install -m 600 plain.key {quoted}"
    )


def _file_version(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
