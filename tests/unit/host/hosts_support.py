"""The recorded hosts with a healthy configuration, and certificates made for their time."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.recorded_host import RecordedHost
from vzkubelet import config
from vzkubelet.config import DriverChoice
from vzkubelet.host import doctor
from vzkubelet.host.finding import Finding, Severity
from vzkubelet.host.service import place
from vzkubelet.host.subject import Acceleration, Cluster, Program, Subject

HOSTS = Path(__file__).parent / "hosts"
NODE = "node-1"
APP = Path("/Users/ci/Library/Application Support/macos-vz-kubelet/macos-vz-kubelet.app")
DAY = datetime.timedelta(days=1)
_KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
QEMU_PROGRAMS = (
    Program("qemu-system-x86_64", "qemu-system-x86", "it runs the machines"),
    Program("UEFI firmware", "ovmf", "machines start with it", (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"),)),
)


def key_pem(which: int = 0, passphrase: bytes = b"") -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return _KEYS[which].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def certificate_pem(
    now: float,
    begins: datetime.timedelta = -30 * DAY,
    ends: datetime.timedelta = 300 * DAY,
    *,
    name: str = f"system:node:{NODE}",
    names: Sequence[str] = (),
) -> bytes:
    """Valid from and until, relative to the host's time; `names` are host names and addresses that it is for."""
    today = datetime.datetime.fromtimestamp(now, datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(_KEYS[0].public_key())
    builder = builder.serial_number(1).not_valid_before(today + begins).not_valid_after(today + ends)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(text) for text in names]), False)
    return builder.sign(_KEYS[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def mac(**settings: str) -> tuple[RecordedHost, Subject]:
    return _host("mac", "darwin", DriverChoice.VZ, settings)


def linux(**settings: str) -> tuple[RecordedHost, Subject]:
    host, subject = _host("linux", "linux", DriverChoice.QEMU, settings)
    return host, replace(subject, programs=QEMU_PROGRAMS, acceleration=Acceleration(works=True, reason="it ran"))


def _host(name: str, system: str, driver: DriverChoice, given: dict[str, str]) -> tuple[RecordedHost, Subject]:
    host = RecordedHost(HOSTS / name)
    home = str(host.facts.home)
    credentials = {
        "KUBECONFIG": f"{home}/node.kubeconfig",
        "APISERVER_CERT_LOCATION": f"{home}/tls.crt",
        "APISERVER_KEY_LOCATION": f"{home}/tls.key",
        "VZ_SSH_USER": "admin",
        "VZ_SSH_PASSWORD": "admin",
    }
    variables = {name: value for name, value in given.items() if name.isupper()}
    flags = {name.replace("_", "-"): value for name, value in given.items() if not name.isupper()}
    settings = config.load({"nodename": NODE, **flags}, credentials | variables, host=config.Host(NODE, system, home))
    certificate = certificate_pem(host.now)
    host.files |= {Path(home) / "tls.crt": certificate, Path(home) / "tls.key": key_pem()}
    cluster = Cluster("https://10.0.0.1:6443", certificate, f"system:node:{NODE}")
    return host, Subject(settings, driver, place.of(host.facts), cluster)


def wrong(host: RecordedHost, subject: Subject) -> list[Finding]:
    return [finding for finding in doctor.examine(host, subject) if finding.severity is not Severity.OK]


def only(findings: Sequence[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def change(subject: Subject, **changes: Any) -> Subject:
    return replace(subject, **changes)
