"""What the verbs make of the flags about registries."""

import datetime
from pathlib import Path

import click
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vzkubelet.cli.image import options
from vzkubelet.errors import InvalidInput
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.reference import parse

TARGET = parse("registry.example/vm:1")


def certificate(path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry.example")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return path


def test_certificates_are_trusted_besides_those_of_the_system(tmp_path: Path) -> None:
    given = {"plain_http": False, "ca_file": certificate(tmp_path / "ca.pem")}
    context = options.connection(given)["tls"]
    names = [entry["subject"] for entry in context.get_ca_certs()]
    assert ((("commonName", "registry.example"),),) in names
    assert context.check_hostname
    assert options.connection(given | {"ca_file": None, "plain_http": True}) == {"plain_http": True, "tls": None}


def test_certificates_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("not a certificate")
    for name, words in (("nowhere", "cannot read"), ("empty", "no certificates"), ("text", "no certificates")):
        with pytest.raises(InvalidInput, match=words):
            options.connection({"plain_http": False, "ca_file": tmp_path / name})


def test_a_login_that_is_given_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"username": "u", "password": "p", "password_stdin": False}
    assert options.credentials(TARGET, given) == (RegistryCredential("u", "p"),)
    with pytest.raises(click.UsageError, match="--username"):
        options.credentials(TARGET, given | {"username": None})
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"read": staticmethod(lambda: "secret\n")})())
    assert options.credentials(TARGET, given | {"password": None, "password_stdin": True}) == (
        RegistryCredential("u", "secret"),
    )


def test_further_tags_follow_behind_commas() -> None:
    assert list(map(str, options.targets("registry.example/vm:1,2,latest"))) == [
        "registry.example/vm:1",
        "registry.example/vm:2",
        "registry.example/vm:latest",
    ]
    for text in (f"registry.example/vm@sha256:{'0' * 64}", "registry.example/vm:1,", "registry.example/vm:1,a/b"):
        with pytest.raises(InvalidInput):
            options.targets(text)


def test_a_base_is_for_the_format_that_shares_chunks() -> None:
    given = {"format_": "chunked", "base": "registry.example/vm:0", "level": 3}
    assert options.written(given) == {"format": "chunked", "base": parse("registry.example/vm:0"), "level": 3}
    with pytest.raises(InvalidInput, match="--format chunked"):
        options.written(given | {"format_": "agoda"})


@pytest.mark.parametrize("text", ["", "linux", "/"])
def test_a_platform_has_two_parts(text: str) -> None:
    with pytest.raises(InvalidInput, match="OS/ARCH"):
        options.parse_platform(text)
