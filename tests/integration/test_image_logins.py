"""``image login`` and ``logout`` as a user calls them, and what pulling and pushing make of them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.cluster.registry import BasicAuth, Registry
from tests.integration.test_credential_programs import HELPER, script
from tests.support.cluster_fixtures import StartRegistry
from tests.support.token_server import TokenServer
from tests.support.vm_images import make_files

USER, PASSWORD = "ci", "secret"
WAIT_S = 30
PULL = ("pull", "--platform", "linux/amd64")


@pytest.fixture
def private(registry_factory: StartRegistry) -> Registry:
    return registry_factory(basic_auth=BasicAuth(USER, PASSWORD))


async def image(
    tmp_path: Path, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and output of an image verb whose Docker config is in `tmp_path`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "vzkubelet", "image", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DOCKER_CONFIG": str(tmp_path / "docker"), **(environment or {})},
    )
    output, _ = await asyncio.wait_for(process.communicate(stdin), WAIT_S)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def log_in(
    tmp_path: Path, registry: str, password: str = PASSWORD, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    arguments = ("login", "-u", USER, "--password-stdin", registry)
    return await image(tmp_path, *arguments, stdin=f"{password}\n".encode(), environment=environment)


def config(tmp_path: Path) -> Path:
    return tmp_path / "docker" / "config.json"


async def push_and_pull(tmp_path: Path, reference: str, environment: Mapping[str, str] | None = None) -> None:
    files = make_files(tmp_path / "files")
    source = ("--disk-path", str(files.disk), "--aux-path", str(files.aux), "--os", "linux", "--arch", "amd64")
    cache = ("--cache-dir", str(tmp_path / "cache"))
    code, output = await image(tmp_path, "push", *source, *cache, reference, environment=environment)
    assert code == 0, output
    code, output = await image(tmp_path, *PULL, *cache, reference, environment=environment)
    assert code == 0, output


async def test_login_is_tried_then_kept_for_pull_and_push(tmp_path: Path, private: Registry) -> None:
    code, output = await log_in(tmp_path, private.host, "hunter2")
    assert code == 5
    assert output.startswith(f'error: {private.host}: the registry refuses the login of user "ci"')
    assert "hunter2" not in output
    assert not config(tmp_path).exists()

    code, output = await log_in(tmp_path, f"http://{private.host}/")
    assert (code, output.splitlines()[-1]) == (0, "Login Succeeded")
    assert f"kept readable in {config(tmp_path)}" in output
    assert config(tmp_path).stat().st_mode & 0o777 == 0o600
    assert json.loads(config(tmp_path).read_text()) == {"auths": {private.host: {"auth": "Y2k6c2VjcmV0"}}}
    await push_and_pull(tmp_path, f"{private.host}/team/vm:1")

    assert (await image(tmp_path, "login", private.host))[1].startswith("Login Succeeded: as ci, with what was kept")
    assert await image(tmp_path, "logout", private.host) == (0, f"Removing login credentials for {private.host}\n")
    assert await image(tmp_path, "logout", private.host) == (0, f"Not logged in to {private.host}\n")
    assert (await image(tmp_path, *PULL, f"{private.host}/team/vm:1"))[0] == 5


async def test_a_login_goes_to_the_credential_helper(tmp_path: Path, private: Registry) -> None:
    helper = script(tmp_path / "bin" / "docker-credential-test", HELPER)
    path = f"{helper.parent}:{os.environ['PATH']}"
    config(tmp_path).parent.mkdir()
    config(tmp_path).write_text(json.dumps({"credHelpers": {private.host: "test"}}))
    assert await log_in(tmp_path, private.host, environment={"PATH": path}) == (0, "Login Succeeded\n")
    assert json.loads(config(tmp_path).read_text())["auths"] == {private.host: {}}
    await push_and_pull(tmp_path, f"{private.host}/team/vm:1", environment={"PATH": path})
    assert PASSWORD not in Path(f"{helper}.seen").read_text()
    code, output = await image(tmp_path, *PULL, f"{private.host}/team/vm:1")
    assert (code, output) == (
        2,
        "error: docker-credential-test is not in PATH: install it, or remove it from config.json\n",
    )


@pytest.fixture
async def tokens(tmp_path: Path) -> AsyncIterator[TokenServer]:
    async with TokenServer(tmp_path, username=USER, password=PASSWORD, identity_token="id-token") as server:
        yield server


async def test_a_registry_with_a_token_service(
    tmp_path: Path, registry_factory: StartRegistry, tokens: TokenServer
) -> None:
    registry = registry_factory(extra=tokens.registry_auth())
    assert (await log_in(tmp_path, registry.host, "wrong"))[0] == 5
    assert (await log_in(tmp_path, registry.host))[1].endswith("Login Succeeded\n")
    assert {asked["scope"] for asked in tokens.asked} == {""}
    await push_and_pull(tmp_path, f"{registry.host}/team/vm:1")


async def test_without_a_login_on_the_command_line_a_person_is_asked(tmp_path: Path, private: Registry) -> None:
    """At a terminal, which shows the name and not the password."""
    at_a_terminal = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", at_a_terminal, sys.executable, "-m", "vzkubelet", "image", "login", private.host),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "DOCKER_CONFIG": str(tmp_path / "docker")},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    shown = b""
    async with asyncio.timeout(WAIT_S):
        for prompt, answer in ((f"Username for {private.host}: ", USER), ("Password: ", PASSWORD)):
            shown += await process.stdout.readuntil(prompt.encode())
            process.stdin.write(f"{answer}\n".encode())
        shown += await process.stdout.read()
        assert await process.wait() == 0, shown
    assert shown.endswith(b"Login Succeeded\r\n")
    assert USER.encode() in shown
    assert PASSWORD.encode() not in shown
    assert private.host in json.loads(config(tmp_path).read_text())["auths"]


async def test_no_registry(tmp_path: Path, private: Registry) -> None:
    private.stop()
    code, output = await log_in(tmp_path, private.host)
    assert code == 8
    assert "cannot be reached" in output
    assert not config(tmp_path).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["login", "r.io"], "no terminal to ask at"),
        (["login", "-u", "ci", "r.io"], "no terminal to ask at"),
        (["login", "--password-stdin", "r.io"], "--password-stdin needs --username"),
        (["login", "-p", "x", "r.io"], "a password needs --username"),
        (["login", "-u", "ci", "-p", "x", "--password-stdin", "r.io"], "exclude each other"),
        (["login", "-u", "ci", "--password-stdin", "r.io"], "the password is empty"),
        (["login", "-u", "ci", "-p", "x", "r.io/team/vm"], "is not a registry"),
        (["logout", "r.io/team/vm"], "is not a registry"),
    ],
)
async def test_command_line_mistakes(tmp_path: Path, arguments: list[str], words: str) -> None:
    code, output = await image(tmp_path, *arguments)
    assert (code, output.count("\n")) == (2, 1), output
    assert words in output
