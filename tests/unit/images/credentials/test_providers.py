"""Credential provider plugins: what they are asked, how long an answer serves, and what a bad one costs."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from vzkubelet import aio
from vzkubelet.errors import Error, InvalidInput, Unavailable
from vzkubelet.images.credentials.provider_config import ProviderSettings
from vzkubelet.images.credentials.providers import Answer, Plugin, Provider, Providers
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.reference import parse
from vzkubelet.program import Finished

V1 = "credentialprovider.kubelet.k8s.io/v1"
LOGIN = RegistryCredential("u", "p")


def settings(*patterns: str, cache_s: float = 600.0, name: str = "test") -> ProviderSettings:
    return ProviderSettings(name, V1, patterns or ("*.io",), cache_s, ("--flag",), (("FOO", "BAR"),))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Asked:
    """A plugin in memory. Held, it answers when it is released."""

    def __init__(self, kind: str = "Image", cache_s: float | None = None, location: str = "*.io") -> None:
        self.answer = Answer(kind, {location: LOGIN}, cache_s)
        self.images: list[str] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, image: str) -> Answer:
        self.images.append(image)
        await self.open.wait()
        return self.answer


# --- The program


class Program:
    def __init__(self, stdout: bytes, exit_code: int = 0, stderr: bytes = b"") -> None:
        self.finished = Finished(exit_code, stdout, stderr)
        self.asked: list[tuple[Sequence[str], dict[str, object], Mapping[str, str], float]] = []

    async def __call__(
        self, command: Sequence[str], stdin: bytes, environment: Mapping[str, str], timeout_s: float
    ) -> Finished:
        self.asked.append((tuple(command), json.loads(stdin), environment, timeout_s))
        return self.finished


def response(**changes: object) -> bytes:
    document = {"kind": "CredentialProviderResponse", "apiVersion": V1, "cacheKeyType": "Registry"}
    return json.dumps({**document, "auth": {"r.io": {"username": "u", "password": "p"}}, **changes}).encode()


async def test_what_a_plugin_is_told() -> None:
    program = Program(response(cacheDuration="1m30s"))
    answer = await Plugin(settings(), Path("/plugins"), {"PATH": "/bin", "FOO": "own"}, program)("r.io/app")
    assert answer == Answer("Registry", {"r.io": LOGIN}, 90.0)
    [(command, request, environment, timeout_s)] = program.asked
    assert command == ("/plugins/test", "--flag")
    assert request == {"kind": "CredentialProviderRequest", "apiVersion": V1, "image": "r.io/app"}
    assert environment == {"PATH": "/bin", "FOO": "BAR"}
    assert timeout_s == 60.0


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, Answer("Registry", {"r.io": LOGIN}, None)),
        ({"cacheDuration": None}, Answer("Registry", {"r.io": LOGIN}, None)),
        ({"cacheDuration": "0s"}, Answer("Registry", {"r.io": LOGIN}, 0.0)),
        ({"auth": None}, Answer("Registry", {}, None)),
        ({"auth": {}, "future": 1}, Answer("Registry", {}, None)),
        ({"auth": {"r.io": {}}}, Answer("Registry", {"r.io": RegistryCredential()}, None)),
    ],
)
async def test_answers(changes: dict[str, object], answer: Answer) -> None:
    assert await Plugin(settings(), Path("/plugins"), {}, Program(response(**changes)))("r.io/app") == answer


@pytest.mark.parametrize(
    ("program", "kind", "text"),
    [
        (Program(b"", 1, b"no metadata service"), Unavailable, "exit code 1: no metadata service"),
        (Program(b""), InvalidInput, "error decoding"),
        (Program(b'{"auth": {"r.io": "hunter2"}}'), InvalidInput, "error decoding"),
        (Program(response(auth={"r.io": {"username": "u", "password": 5, "x": "hunter2"}})), InvalidInput, "decoding"),
        (Program(response(cacheDuration="soon")), InvalidInput, "error decoding"),
        (Program(response(apiVersion="credentialprovider.kubelet.k8s.io/v1beta1")), InvalidInput, "did not match"),
        (Program(response(kind="CredentialProviderRequest")), InvalidInput, "unexpected Kind"),
        (Program(response(cacheKeyType="")), InvalidInput, "valid cacheKeyType"),
        (Program(response(cacheKeyType="Node")), InvalidInput, "valid cacheKeyType: Node"),
    ],
)
async def test_bad_answers_are_named_and_never_quoted(program: Program, kind: type[Error], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        await Plugin(settings(), Path("/plugins"), {}, program)("r.io/app")
    assert "test" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


# --- What is kept of answers


@pytest.mark.parametrize(
    ("patterns", "image", "asked"),
    [
        (("registry.io",), "registry.io/team/app", True),
        (("registry.io:8080/path",), "registry.io:8080/path/app", True),
        (("registry.io:8080/path",), "registry.io/path/app", False),
        (("other.io", "*.registry.io"), "eu.registry.io/app", True),
        (("*.registry.io",), "registry.io/app", False),
        (("docker.io/library",), "docker.io/library/busybox", True),
    ],
)
async def test_a_plugin_is_asked_for_what_it_matches(patterns: tuple[str, ...], image: str, asked: bool) -> None:
    plugin = Asked()
    logins = await Provider(settings(*patterns), plugin).logins(image)
    assert (plugin.images, bool(logins)) == ([image] if asked else [], asked)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("Image", ["a.io/x", "a.io/y", "b.io/x"]),
        ("Registry", ["a.io/x", "b.io/x"]),
        ("Global", ["a.io/x"]),
    ],
)
async def test_an_answer_serves_as_far_as_it_says(kind: str, asked: list[str]) -> None:
    plugin = Asked(kind)
    provider = Provider(settings(), plugin, Clock())
    for image in ("a.io/x", "a.io/x", "a.io/y", "b.io/x", "a.io/y"):
        assert await provider.logins(image) == {"*.io": LOGIN}
    assert plugin.images == asked


@pytest.mark.parametrize(
    ("said_s", "default_s", "serves_s"),
    [(None, 600.0, 600.0), (30.0, 600.0, 30.0), (0.0, 600.0, 0.0), (None, 0.0, 0.0)],
)
async def test_an_answer_serves_as_long_as_it_or_the_configuration_says(
    said_s: float | None, default_s: float, serves_s: float
) -> None:
    plugin, clock = Asked(cache_s=said_s), Clock()
    provider = Provider(settings(cache_s=default_s), plugin, clock)
    await provider.logins("a.io/x")
    clock.now += serves_s
    await provider.logins("a.io/x")
    assert len(plugin.images) == (1 if serves_s else 2)
    clock.now += 0.1
    await provider.logins("a.io/x")
    assert len(plugin.images) == (2 if serves_s else 3)


async def test_requests_at_the_same_time_are_one_and_outlive_who_gives_up() -> None:
    plugin = Asked(cache_s=0.0)
    plugin.open.clear()
    provider = Provider(settings(), plugin)
    first, second, third = (
        aio.spawn(provider.logins(image), name=f"wait for {image}") for image in ("a.io/x", "a.io/x", "a.io/y")
    )
    while len(plugin.images) < 2:
        await asyncio.sleep(0)
    await aio.cancel(first)
    plugin.open.set()
    assert await second == await third == {"*.io": LOGIN}
    assert plugin.images == ["a.io/x", "a.io/y"]
    assert await provider.logins("a.io/x") == {"*.io": LOGIN}  # not kept: asked again
    assert len(plugin.images) == 3


async def test_close_ends_what_is_being_asked() -> None:
    plugin = Asked()
    plugin.open.clear()
    provider = Provider(settings(), plugin)
    waiting = aio.spawn(provider.logins("a.io/x"), name="wait")
    while not plugin.images:
        await asyncio.sleep(0)
    await Providers({"test": provider}).close()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


# --- All plugins together


async def test_logins_of_all_plugins_the_earlier_one_first() -> None:
    one, two = Asked(location="a.io/x"), Asked(location="a.io/x")
    two.answer = Answer("Image", {"a.io": RegistryCredential("broad"), "a.io/x": RegistryCredential("two")})
    providers = Providers({"one": Provider(settings(), one), "two": Provider(settings(), two)})
    found = await providers.lookup(parse("a.io/x/app"))
    assert [login.username for login in found] == ["u", "two", "broad"]


async def test_a_plugin_that_fails_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(image: str) -> Answer:
        raise Unavailable(f"exit code 1 for {image}")

    providers = Providers({"bad": Provider(settings(), fail), "good": Provider(settings(), Asked())})
    assert await providers.lookup(parse("a.io/app")) == (LOGIN,)
    assert "credential provider bad gives nothing for a.io/app: exit code 1" in caplog.text
