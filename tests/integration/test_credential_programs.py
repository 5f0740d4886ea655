"""Real programs that give credentials: what they are told and how, and that none of them holds an agent up."""

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from vzkubelet import aio, program
from vzkubelet.errors import DeadlineExceeded, InvalidInput
from vzkubelet.images.credentials import DockerLogins, load
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.reference import parse

ENVIRONMENT = {"PATH": os.environ["PATH"], "KEPT": "yes"}


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


async def run(path: Path, stdin: bytes = b"", timeout_s: float = 20.0) -> program.Finished:
    return await program.run([str(path), "verb"], stdin, ENVIRONMENT, timeout_s)


async def test_request_answer_and_complaint(tmp_path: Path) -> None:
    finished = await run(script(tmp_path / "p", 'cat; echo "$1 $KEPT $HOME" >&2; exit 3'), b"request")
    assert (finished.exit_code, finished.stdout, finished.stderr) == (3, b"request", b"verb yes \n")


async def test_a_program_need_not_read(tmp_path: Path) -> None:
    finished = await run(script(tmp_path / "p", "echo answer"), bytes(16 << 10))
    assert (finished.exit_code, finished.stdout) == (0, b"answer\n")


async def test_too_long_a_request(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1048576 bytes are more than"):
        await run(script(tmp_path / "p", "cat"), bytes(1 << 20))


async def test_a_program_that_is_killed(tmp_path: Path) -> None:
    assert (await run(script(tmp_path / "p", "kill -9 $$"))).exit_code == -9


async def test_no_program(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for path, words in ((tmp_path / "absent", "No such file"), (tmp_path / "text", "Permission denied")):
        with pytest.raises(InvalidInput, match=words):
            await run(path)


async def test_too_long_an_answer(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="prints more than"):
        await run(script(tmp_path / "p", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"))


@pytest.mark.parametrize(
    "text",
    [
        "echo $$ > pid; sleep 600 & sleep 600",
        "echo $$ > pid; cat /dev/zero",
        "echo $$ > pid; cat /dev/zero >&2",
        "echo $$ > pid; trap '' TERM; while :; do sleep 600; done",
        "(echo $$ > pid; exec sleep 600) & exit 0",  # the child holds the pipes
    ],
)
async def test_a_program_that_does_not_end_is_ended_with_what_it_started(text: str, tmp_path: Path) -> None:
    path = script(tmp_path / "p", text.replace("> pid", f"> {tmp_path}/pid"))
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"has not answered in 0\.5 s"):
        await run(path, timeout_s=0.5)
    assert time.monotonic() - began < 10
    assert await ended(tmp_path)


async def test_what_has_left_the_group_holds_nobody_up(tmp_path: Path) -> None:
    path = script(tmp_path / "p", f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600' & exit 0")
    began = time.monotonic()
    try:
        with pytest.raises(DeadlineExceeded):
            await run(path, b"request", timeout_s=1.0)
        assert time.monotonic() - began < 10
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


async def test_cancelling_ends_the_program(tmp_path: Path) -> None:
    path = script(tmp_path / "p", f"echo $$ > {tmp_path}/pid; sleep 600")
    running = aio.spawn(run(path), name="run")
    while not (tmp_path / "pid").exists():
        await asyncio.sleep(0.02)
    await aio.cancel(running)
    assert running.cancelled()
    assert await ended(tmp_path)


async def ended(directory: Path) -> bool:
    """Whether nothing of the script's process group is left."""
    group = int((directory / "pid").read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not any(_group(process) == group for process in psutil.process_iter()):
            return True
        await asyncio.sleep(0.05)
    return False


def _group(process: psutil.Process) -> int:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return 0
        return os.getpgid(process.pid)
    except (psutil.Error, ProcessLookupError):
        return 0


# --- Credential provider plugins

PLUGIN = """\
request=$(cat)
echo "$request" >> "$0.asked"
echo "$* $TEAM" >> "$0.told"
tr '\\0' '\\n' < /proc/$$/cmdline >> "$0.seen"
cat <<END
{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
 "cacheKeyType": "Registry", "cacheDuration": "$DURATION",
 "auth": {"*.example.com": {"username": "plugin", "password": "hunter2"}}}
END
"""
CONFIG = """\
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: example
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    matchImages: ["*.example.com", "example.com:5000/team"]
    defaultCacheDuration: 10m
    args: [--region, eu]
    env:
      - {name: TEAM, value: builders}
      - {name: DURATION, value: %s}
"""


async def test_a_real_plugin(tmp_path: Path) -> None:
    plugin = script(tmp_path / "bin" / "example", PLUGIN)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG % "1h")
    providers = load(config, plugin.parent, ENVIRONMENT)
    login = RegistryCredential("plugin", "hunter2")
    images = [parse(f"eu.example.com/{name}") for name in ("vm:1", "other:2", "vm:3")]
    assert await providers.lookup(images[0]) == (login,)
    assert await providers.lookup(images[1]) == (login,)
    assert await providers.lookup(parse("us.example.com/vm:1")) == (login,)
    assert await providers.lookup(parse("example.org/vm:1")) == ()
    assert await providers.lookup(parse("example.com:5000/team/vm:1")) == ()  # asked, and its answer is for others
    asked = Path(f"{plugin}.asked").read_text().splitlines()
    kind = '{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1"'
    places = ("eu.example.com/vm", "us.example.com/vm", "example.com:5000/team/vm")
    assert asked == [f'{kind},"image":"{place}"}}' for place in places]
    assert set(Path(f"{plugin}.told").read_text().splitlines()) == {"--region eu builders"}
    await providers.close()


async def test_requests_of_several_pods_start_one_plugin(tmp_path: Path) -> None:
    plugin = script(tmp_path / "bin" / "example", f"sleep 0.3\n{PLUGIN}")
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG % "0s")
    providers = load(config, plugin.parent, ENVIRONMENT)
    image = parse("eu.example.com/vm:1")
    found = await asyncio.gather(*(providers.lookup(image) for _ in range(5)))
    assert found == [(RegistryCredential("plugin", "hunter2"),)] * 5
    assert len(Path(f"{plugin}.asked").read_text().splitlines()) == 1
    await providers.lookup(image)
    assert len(Path(f"{plugin}.asked").read_text().splitlines()) == 2
    await providers.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo 'no metadata service' >&2; exit 1", "exit code 1: no metadata service"),
        ("echo hunter2", "error decoding the response from stdout"),
    ],
)
async def test_a_plugin_that_fails_costs_a_line_in_the_log(
    text: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = script(tmp_path / "bin" / "example", text)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG % "1h")
    providers = load(config, plugin.parent, ENVIRONMENT)
    assert await providers.lookup(parse("eu.example.com/vm:1")) == ()
    assert words in caplog.text
    assert "hunter2" not in caplog.text
    await providers.close()


def test_programs_are_in_their_directory_alone_and_are_looked_for_at_once(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG % "1h")
    directory = tmp_path / "bin"
    with pytest.raises(InvalidInput, match=r"plugin binary directory .* did not exist"):
        load(config, directory, ENVIRONMENT)
    script(tmp_path / "elsewhere" / "example", PLUGIN)
    directory.mkdir()
    environment = {"PATH": str(tmp_path / "elsewhere")}
    with pytest.raises(InvalidInput, match=r"plugin binary executable .*/bin/example did not exist"):
        load(config, directory, environment)
    script(directory / "example", PLUGIN).chmod(0o644)
    if os.geteuid() != 0 or not os.access(directory / "example", os.X_OK):
        with pytest.raises(InvalidInput, match="permission denied"):
            load(config, directory, environment)


# --- Credential helpers

HELPER = """\
echo "$*" >> "$0.told"
tr '\\0' '\\n' < /proc/$$/cmdline >> "$0.seen"
case $1 in
  store) cat > "$0.kept" ;;
  get) grep -q "\\"ServerURL\\":\\"$(cat)\\"" "$0.kept" 2>/dev/null && cat "$0.kept" && exit 0
       echo 'credentials not found in native keychain'; exit 1 ;;
  erase) rm -f "$0.kept" ;;
esac
"""


async def test_a_real_helper(tmp_path: Path) -> None:
    helper = script(tmp_path / "bin" / "docker-credential-test", HELPER)
    logins = DockerLogins(tmp_path / "docker", {"PATH": f"{helper.parent}:{os.environ['PATH']}"})
    logins.path.parent.mkdir()
    logins.path.write_text('{"credsStore": "test"}')
    login = RegistryCredential("u", "hunter2")
    assert await logins.lookup(parse("r.io/vm")) == ()
    assert await logins.store("r.io", login) == "docker-credential-test"
    assert await logins.lookup(parse("r.io/vm")) == (login,)
    assert await logins.erase("r.io") is True
    assert await logins.lookup(parse("r.io/vm")) == ()
    assert "hunter2" not in logins.path.read_text()
    assert set(Path(f"{helper}.told").read_text().split()) == {"get", "store", "erase"}
    assert "hunter2" not in Path(f"{helper}.seen").read_text()
