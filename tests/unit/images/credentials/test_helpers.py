"""Docker's credential helpers: what is told to them, what their answers mean, and what is never repeated."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from vzkubelet.errors import Error, InvalidInput, Unavailable
from vzkubelet.images.credentials.helpers import Helper
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.program import Finished


class Program:
    """Answers as it is told to."""

    def __init__(self, stdout: bytes = b"", exit_code: int = 0, stderr: bytes = b"") -> None:
        self.finished = Finished(exit_code, stdout, stderr)
        self.asked: list[tuple[list[str], bytes]] = []

    async def __call__(
        self, command: Sequence[str], stdin: bytes, environment: Mapping[str, str], timeout_s: float
    ) -> Finished:
        self.asked.append(([Path(command[0]).name, *command[1:]], stdin))
        return self.finished


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    program = tmp_path / "docker-credential-kept"
    program.touch(mode=0o755)
    return {"PATH": str(tmp_path)}


@pytest.mark.parametrize(
    ("output", "login"),
    [
        (b'{"ServerURL":"r.io","Username":"u","Secret":"s"}', RegistryCredential("u", "s")),
        (b'{"Username":"<token>","Secret":"t"}', RegistryCredential(identity_token="t")),
        (b'{"Username":"u","Secret":""}', None),
        (b"{}", None),
    ],
)
async def test_get(output: bytes, login: RegistryCredential | None, environment: dict[str, str]) -> None:
    program = Program(output)
    assert await Helper("kept", environment, program).get("r.io") == login
    assert program.asked == [(["docker-credential-kept", "get"], b"r.io")]


@pytest.mark.parametrize("complaint", [b"credentials not found in native keychain\n", b"no credentials server URL"])
async def test_no_login_is_no_error(complaint: bytes, environment: dict[str, str]) -> None:
    helper = Helper("kept", environment, Program(complaint, 1))
    assert await helper.get("r.io") is None
    await helper.erase("r.io")


async def test_store_tells_the_secret_on_stdin_alone(environment: dict[str, str]) -> None:
    program = Program()
    helper = Helper("kept", environment, program)
    await helper.store("r.io", RegistryCredential("u", "hunter2"))
    await helper.store("r.io", RegistryCredential(identity_token="hunter3"))
    assert program.asked == [
        (["docker-credential-kept", "store"], b'{"ServerURL":"r.io","Username":"u","Secret":"hunter2"}'),
        (["docker-credential-kept", "store"], b'{"ServerURL":"r.io","Username":"<token>","Secret":"hunter3"}'),
    ]


@pytest.mark.parametrize(
    ("program", "kind", "text"),
    [
        (Program(b"the keychain is locked", 1), Unavailable, "exit code 1: the keychain is locked"),
        (Program(b"", -9, b"killed"), Unavailable, "exit code -9: killed"),
        (Program(b'{"Secret": "hunter2"}', 1), Unavailable, "no reason given"),
        (Program(b'{"Secret": 5, "x": "hunter2"}'), InvalidInput, "no credential"),
        (Program(b"hunter2"), InvalidInput, "no credential"),
    ],
)
async def test_failures_quote_no_secret(
    program: Program, kind: type[Error], text: str, environment: dict[str, str]
) -> None:
    with pytest.raises(kind, match=text) as caught:
        await Helper("kept", environment, program).get("r.io")
    assert "docker-credential-kept" in str(caught.value)
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize(("name", "text"), [("absent", "not in PATH"), ("../kept", "a name is wanted")])
async def test_programs_are_found_in_path_alone(name: str, text: str, environment: dict[str, str]) -> None:
    program = Program(b"{}")
    with pytest.raises(InvalidInput, match=text):
        await Helper(name, environment, program).get("r.io")
    assert program.asked == []


def test_output_does_not_show_in_representations() -> None:
    assert "hunter2" not in repr(Finished(0, b"hunter2", b"hunter2"))
