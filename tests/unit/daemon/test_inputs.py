"""What the agent tries before it changes anything, and what `doctor` tries in its place."""

import dataclasses
import time
from pathlib import Path

import pytest

from tests.unit.host.hosts_support import certificate_pem, key_pem
from vzkubelet import config
from vzkubelet.config import Config
from vzkubelet.daemon import agent, inputs, preflight
from vzkubelet.errors import InvalidInput, Unsupported
from vzkubelet.host.local import LocalProbe
from vzkubelet.host.subject import Subject

KUBECONFIG = """\
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443"}}]
contexts: [{name: x, context: {cluster: c}}]
current-context: x
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of an agent that could start."""
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    (tmp_path / "tls.crt").write_bytes(certificate_pem(time.time()))
    (tmp_path / "tls.key").write_bytes(key_pem())
    (tmp_path / "garbage").write_text("garbage")
    return {
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "APISERVER_CERT_LOCATION": str(tmp_path / "tls.crt"),
        "APISERVER_KEY_LOCATION": str(tmp_path / "tls.key"),
        "VZ_SSH_USER": "admin",
        "VZ_SSH_PASSWORD": "admin",
    }


def settings(environment: dict[str, str], tmp_path: Path) -> Config:
    return config.load({"nodename": "node-1", "cache-dir": str(tmp_path / "cache")}, environment)


def test_an_agent_that_could_start_is_told_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    inputs.require(settings(environment, tmp_path))


@pytest.mark.parametrize(("variable", "told"), [
    ("KUBECONFIG", "garbage: not a mapping"), ("APISERVER_CERT_LOCATION", "serving certificate "),
    ("APISERVER_KEY_LOCATION", "serving certificate "), ("APISERVER_CA_CERT_LOCATION", "--client-verify-ca"),
    ("VZ_SSH_PRIVATE_KEY_PATH", "the SSH key "),
])  # fmt: skip
def test_garbage_is_refused_before_a_bridge_is_made(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, told: str
) -> None:
    monkeypatch.setattr(agent, "Parts", lambda *_: pytest.fail("nothing of the host may be touched"))
    with pytest.raises(InvalidInput, match=told):
        agent.run(settings(environment | {variable: str(tmp_path / "garbage")}, tmp_path))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"VZ_IMAGE_CREDENTIAL_PROVIDER_CONFIG": "garbage"}, "error decoding config .*garbage"),
        ({"VZ_PRELOADED_IMAGES_VERIFICATION_ALLOWLIST": "r.io/vm"}, "needs the policy NeverVerifyAllowlistedImages"),
    ],
)
def test_logins_that_cannot_be_had_are_refused_at_once(
    environment: dict[str, str], tmp_path: Path, variables: dict[str, str], told: str
) -> None:
    given = {name: value.replace("garbage", str(tmp_path / "garbage")) for name, value in variables.items()}
    if "VZ_IMAGE_CREDENTIAL_PROVIDER_CONFIG" in given:
        given["VZ_IMAGE_CREDENTIAL_PROVIDER_BIN_DIR"] = str(tmp_path)
    with pytest.raises(InvalidInput, match=told):
        inputs.require(settings(environment | given, tmp_path))
    assert not (tmp_path / "cache").exists()


def test_every_mistake_is_told_at_once(environment: dict[str, str], tmp_path: Path) -> None:
    garbage = str(tmp_path / "garbage")
    wrong = {"VZ_SSH_KEX_ALGORITHMS": "none", "APISERVER_CA_CERT_LOCATION": garbage, "KUBECONFIG": garbage}
    with pytest.raises(InvalidInput, match="3 mistakes in the configuration") as caught:
        inputs.require(settings(environment | wrong, tmp_path))
    assert "VZ_SSH_KEX_ALGORITHMS: none is not a valid key exchange algorithm; known are" in str(caught.value)
    assert "curve25519-sha256" in str(caught.value)


def test_nobody_is_asked_for_the_passphrase_of_a_key(
    environment: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tls.key").write_bytes(key_pem(passphrase=b"secret"))
    with pytest.raises(InvalidInput, match=r"is encrypted; the agent needs it without a passphrase: openssl pkey -in"):
        inputs.require(settings(environment, tmp_path))
    assert capfd.readouterr() == ("", "")


def test_a_file_is_told_once(environment: dict[str, str], tmp_path: Path) -> None:
    absent = environment | {"VZ_SSH_PRIVATE_KEY_PATH": str(tmp_path / "absent")}
    told = [f"VZ_SSH_PRIVATE_KEY_PATH: cannot read {tmp_path}/absent: No such file or directory"]
    assert list(inputs.mistakes(settings(absent, tmp_path), told)) == []


def test_a_driver_of_another_system_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    wanted = settings(environment, tmp_path)
    vz = dataclasses.replace(wanted, machines=dataclasses.replace(wanted.machines, driver=config.DriverChoice.VZ))
    with pytest.raises(Unsupported, match="runs on a Mac"):
        inputs.require_driver(vz, "linux", must_exist=False)
    inputs.require_driver(vz, "darwin", must_exist=False)


async def examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **given: str) -> Subject:
    for option in config.options():
        monkeypatch.delenv(option.env or "_", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    probe = LocalProbe({"PATH": ""})
    probe.facts = dataclasses.replace(probe.facts, home=tmp_path, uid=1000)
    return await preflight.subject(
        {"machine-driver": "synthetic", **{name.replace("_", "-"): value for name, value in given.items()}},
        probe,
        in_cluster=False,
    )


@pytest.mark.looptime(False)
async def test_a_cache_that_the_agent_refuses_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    for refused in (file, file / "x", tmp_path / "dangling"):
        if refused.name == "dangling":
            refused.symlink_to(tmp_path / "nowhere")
        subject = await examined(tmp_path, monkeypatch, cache_dir=str(refused))
        assert f"--cache-dir: cannot use {refused}/node: " in subject.cache_obstacle
    before = sorted(tmp_path.iterdir())
    subject = await examined(tmp_path, monkeypatch, cache_dir=str(tmp_path / "a/b"))
    assert subject.cache_obstacle == ""
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.looptime(False)
async def test_one_bad_flag_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = await examined(tmp_path, monkeypatch, machine_driver="vz", vz_audio="loud", kubelet_port="70000")
    assert subject.driver is config.DriverChoice.VZ
    assert [mistake.split(":")[0] for mistake in subject.mistakes] == ["--kubelet-port", "--vz-audio"]
