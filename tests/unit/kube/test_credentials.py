import base64
from pathlib import Path

import msgspec
import pytest

from vzkubelet.errors import InvalidInput
from vzkubelet.kube import credentials, exec_plugin
from vzkubelet.kube.credentials import Credentials
from vzkubelet.kube.exec_plugin import ExecCredential
from vzkubelet.kube.kubeconfig import Access, ExecConfig

V1 = "client.authentication.k8s.io/v1"
CONFIG = ExecConfig(api_version=V1, command="login")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Plugin:
    """In place of the process: tokens t1, t2, … that live `life_s`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: Clock, life_s: float | None) -> None:
        self.runs = 0
        self._clock, self._life_s = clock, life_s
        monkeypatch.setattr(exec_plugin, "run", self.run)

    async def run(self, *_: object) -> ExecCredential:
        self.runs += 1
        expires = None if self._life_s is None else self._clock.now + self._life_s
        return ExecCredential(token=f"t{self.runs}", expires_at=expires)


def by_plugin(clock: Clock) -> Credentials:
    return Credentials(Access("http://localhost:1", exec=CONFIG), clock=clock)


async def test_a_plugins_token_is_renewed_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    plugin = Plugin(monkeypatch, clock, 600)
    held = by_plugin(clock)
    assert (await held.authenticate()).token == "t1"
    clock.now += 569
    assert (await held.authenticate()).token == "t1"
    clock.now += 2
    assert (await held.authenticate()).token == "t2"
    assert plugin.runs == 2


async def test_a_token_of_two_seconds_is_still_used_for_most_of_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    plugin = Plugin(monkeypatch, clock, 2)
    held = by_plugin(clock)
    await held.authenticate()
    clock.now += 1.5
    await held.authenticate()
    assert plugin.runs == 1
    clock.now += 0.2
    await held.authenticate()
    assert plugin.runs == 2


async def test_a_token_without_expiry_is_renewed_when_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    Plugin(monkeypatch, clock, None)
    held = by_plugin(clock)
    used = await held.authenticate()
    clock.now += 1e7
    assert (await held.authenticate()).token == "t1"
    assert held.refused(used)
    renewed = await held.authenticate()
    assert renewed.token == "t2"
    assert held.refused(used)
    assert (await held.authenticate()).token == "t2", "a late refusal of the old token must not throw the new one away"


async def test_a_token_file_is_read_again_after_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "token"
    file.write_text("one\n")
    held = Credentials(Access("http://localhost:1", token_file=file), clock=clock)
    assert (await held.authenticate()).token == "one"
    file.write_text("two\n")
    clock.now += 59
    assert (await held.authenticate()).token == "one"
    clock.now += 2
    assert (await held.authenticate()).token == "two"


async def test_a_token_file_that_is_gone_for_a_moment_costs_nothing(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "token"
    file.write_text("one")
    held = Credentials(Access("http://localhost:1", token_file=file), clock=clock)
    await held.authenticate()
    file.unlink()
    clock.now += 61
    assert (await held.authenticate()).token == "one"


async def test_a_token_file_that_was_never_there_is_named(tmp_path: Path) -> None:
    held = Credentials(Access("http://localhost:1", token_file=tmp_path / "token"))
    with pytest.raises(InvalidInput, match="token: No such file"):
        await held.authenticate()


def test_certificates_that_do_not_load_are_refused_at_start() -> None:
    with pytest.raises(InvalidInput, match="CA certificate of https://h"):
        Credentials(Access("https://h", ca=b"rubbish"))
    with pytest.raises(InvalidInput, match="client certificate for https://h"):
        Credentials(Access("https://h", client_certificate=b"rubbish", client_key=b"rubbish"))


async def test_no_certificate_tells_no_name() -> None:
    assert await Credentials(Access("http://localhost:1", token="t")).user_name() == ""
    with pytest.raises(InvalidInput):
        credentials.common_name(b"rubbish")


def test_a_plugin_is_told_the_cluster_when_it_asks() -> None:
    config = msgspec.structs.replace(CONFIG, provide_cluster_info=True)
    access = Access("https://h", ca=b"CA", server_name="api", insecure=False)
    assert msgspec.json.decode(exec_plugin.exec_info(access, config)) == {
        "kind": "ExecCredential",
        "apiVersion": V1,
        "spec": {
            "interactive": False,
            "cluster": {
                "server": "https://h",
                "certificate-authority-data": base64.b64encode(b"CA").decode(),
                "tls-server-name": "api",
            },
        },
    }
    assert "cluster" not in exec_plugin.exec_info(access, CONFIG)


def test_a_plugins_output_is_understood() -> None:
    output = msgspec.json.encode(
        {
            "kind": "ExecCredential",
            "apiVersion": V1,
            "status": {
                "expirationTimestamp": "2030-01-01T00:00:00Z",
                "token": "t",
                "clientCertificateData": "PEM",
                "clientKeyData": "KEY",
            },
        }
    )
    got = exec_plugin.parse(output, CONFIG)
    assert (got.token, got.client_certificate, got.client_key) == ("t", b"PEM", b"KEY")
    assert got.expires_at == 1893456000


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (b"", "prints no ExecCredential"),
        (b"hello", "prints no ExecCredential"),
        (b'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1beta1"}', "but the kubeconfig says"),
        (b'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1"}', "neither a token"),
        (
            b'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1",'
            b'"status":{"clientCertificateData":"x"}}',
            "without the other",
        ),
    ],
)
def test_a_plugins_rubbish_is_refused(output: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        exec_plugin.parse(output, CONFIG)
