"""``config.json``: whose login is tried in which order, and what a login changes in it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from vzkubelet.errors import InvalidInput
from vzkubelet.images.credentials.docker_logins import HUB_SERVER, DockerLogins, server_of
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.reference import parse
from vzkubelet.program import Finished


class KeyStore:
    """All helpers of a host, in memory."""

    def __init__(self) -> None:
        self.logins: dict[tuple[str, str], RegistryCredential] = {}

    async def __call__(
        self, command: Sequence[str], stdin: bytes, environment: Mapping[str, str], timeout_s: float
    ) -> Finished:
        name, verb = Path(command[0]).name.removeprefix("docker-credential-"), command[1]
        if verb == "store":
            told = json.loads(stdin)
            self.logins[name, told["ServerURL"]] = RegistryCredential(told["Username"], told["Secret"])
            return Finished(0, b"", b"")
        key = (name, stdin.decode())
        if key not in self.logins:
            return Finished(1, b"credentials not found in native keychain", b"")
        if verb == "erase":
            del self.logins[key]
            return Finished(0, b"", b"")
        login = self.logins[key]
        return Finished(0, json.dumps({"Username": login.username, "Secret": login.password}).encode(), b"")


@pytest.fixture
def key_store() -> KeyStore:
    return KeyStore()


@pytest.fixture
def logins(tmp_path: Path, key_store: KeyStore) -> DockerLogins:
    for name in ("all", "one"):
        (tmp_path / f"docker-credential-{name}").touch(mode=0o755)
    return DockerLogins(tmp_path / "docker", {"PATH": str(tmp_path)}, key_store)


def write(logins: DockerLogins, document: Any) -> None:
    logins.path.parent.mkdir(exist_ok=True)
    logins.path.write_text(document if isinstance(document, str) else json.dumps(document))


FILE = {"auths": {"r.io": {"username": "file", "password": "f"}, "empty.io": {}}}


async def test_no_file_is_no_login(logins: DockerLogins) -> None:
    assert await logins.lookup(parse("r.io/app")) == ()
    write(logins, "")
    assert await logins.lookup(parse("r.io/app")) == ()


async def test_the_file_alone(logins: DockerLogins) -> None:
    write(logins, FILE)
    assert await logins.lookup(parse("r.io/app")) == (RegistryCredential("file", "f"),)
    assert await logins.lookup(parse("empty.io/app")) == ()


async def test_the_helper_of_the_registry_before_the_store_for_all_before_the_file(
    logins: DockerLogins, key_store: KeyStore
) -> None:
    write(logins, {**FILE, "credsStore": "all", "credHelpers": {"one.io": "one"}})
    key_store.logins = {
        ("all", "r.io"): RegistryCredential("all", "a"),
        ("all", "one.io"): RegistryCredential("never", "n"),
        ("one", "one.io"): RegistryCredential("one", "o"),
    }
    assert await logins.lookup(parse("r.io/app")) == (RegistryCredential("all", "a"), RegistryCredential("file", "f"))
    assert await logins.lookup(parse("one.io/app")) == (RegistryCredential("one", "o"),)
    assert await logins.lookup(parse("other.io/app")) == ()


@pytest.mark.parametrize("name", [HUB_SERVER, "docker.io", "index.docker.io"])
async def test_the_hub_by_any_name(name: str, logins: DockerLogins, key_store: KeyStore) -> None:
    write(logins, {"credHelpers": {name: "one"}})
    key_store.logins = {("one", HUB_SERVER): RegistryCredential("hub", "h")}
    assert await logins.lookup(parse("busybox")) == (RegistryCredential("hub", "h"),)


@pytest.mark.parametrize("document", ["{", "[]", {"auths": {}, "credsStore": 5}, {"credHelpers": ["hunter2"]}])
async def test_a_broken_file_is_named_and_never_quoted(document: Any, logins: DockerLogins) -> None:
    write(logins, document)
    with pytest.raises(InvalidInput) as caught:
        await logins.lookup(parse("r.io/app"))
    assert str(logins.path) in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_login_keeps_what_else_the_file_says_and_shows_it_to_nobody(logins: DockerLogins) -> None:
    write(logins, {**FILE, "psFormat": "table", "HttpHeaders": {"X": "y"}})
    logins.path.chmod(0o644)
    assert await logins.store("new.io:5000", RegistryCredential("u", "p")) == str(logins.path)
    assert logins.path.stat().st_mode & 0o777 == 0o600
    assert json.loads(logins.path.read_text()) == {
        "auths": {**FILE["auths"], "new.io:5000": {"auth": "dTpw"}},
        "psFormat": "table",
        "HttpHeaders": {"X": "y"},
    }
    assert await logins.lookup(parse("new.io:5000/app")) == (RegistryCredential("u", "p"),)


async def test_login_with_an_identity_token(logins: DockerLogins) -> None:
    await logins.store("r.io", RegistryCredential("u", "", "t"))
    assert await logins.lookup(parse("r.io/app")) == (RegistryCredential("u", "", "t"),)


async def test_login_goes_to_the_helper_and_leaves_no_secret_in_the_file(
    logins: DockerLogins, key_store: KeyStore
) -> None:
    write(logins, {"credsStore": "all"})
    assert await logins.store("r.io", RegistryCredential("u", "hunter2")) == "docker-credential-all"
    assert key_store.logins == {("all", "r.io"): RegistryCredential("u", "hunter2")}
    assert json.loads(logins.path.read_text()) == {"credsStore": "all", "auths": {"r.io": {}}}
    assert await logins.lookup(parse("r.io/app")) == (RegistryCredential("u", "hunter2"),)
    assert await logins.erase("r.io") is True
    assert key_store.logins == {}
    assert json.loads(logins.path.read_text()) == {"credsStore": "all", "auths": {}}
    assert await logins.erase("r.io") is False


async def test_logout_without_helper(logins: DockerLogins) -> None:
    assert await logins.erase("r.io") is False
    assert not logins.path.exists()
    write(logins, FILE)
    assert await logins.erase("r.io") is True
    assert json.loads(logins.path.read_text()) == {"auths": {"empty.io": {}}}


async def test_a_linked_file_stays_a_link(logins: DockerLogins, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles.json"
    target.write_text("{}")
    logins.path.parent.mkdir()
    logins.path.symlink_to(target)
    await logins.store("r.io", RegistryCredential("u", "p"))
    assert logins.path.is_symlink()
    assert json.loads(target.read_text()) == {"auths": {"r.io": {"auth": "dTpw"}}}


@pytest.mark.parametrize(
    ("registry", "server"),
    [
        ("r.io", "r.io"),
        ("r.io:5000", "r.io:5000"),
        ("https://r.io/", "r.io"),
        ("http://r.io:80", "r.io:80"),
        ("docker.io", HUB_SERVER),
        ("https://index.docker.io/v1/", HUB_SERVER),
        ("registry-1.docker.io", HUB_SERVER),
    ],
)
def test_keys_of_registries(registry: str, server: str) -> None:
    assert server_of(registry) == server


@pytest.mark.parametrize("registry", ["", "r.io/team/app", "https://"])
def test_a_repository_is_no_registry(registry: str) -> None:
    with pytest.raises(InvalidInput, match="is not a registry"):
        server_of(registry)
