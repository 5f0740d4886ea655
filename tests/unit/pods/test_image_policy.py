"""imagePullPolicy and credentials: what is asked of whom, in which order, and the kubelet's words for it."""

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.support.memory_objects import MemoryObjects
from tests.support.memory_runtime import MemoryRecorder, MemoryRuntime
from tests.unit.pods.node import IP, Node, pod
from vzkubelet import aio, errors, ports
from vzkubelet.images.credentials import DockerLogins, NodeImageAccess
from vzkubelet.model import meta, objects
from vzkubelet.model import pod as api
from vzkubelet.model.docker_config import RegistryCredential
from vzkubelet.model.identity import PodRef
from vzkubelet.model.reference import parse
from vzkubelet.pods import image_policy
from vzkubelet.pods.world import World

IMAGE = "r.io/team/vm:1"
RIGHT = RegistryCredential("right", "p")
PRESENT = f'vm|Normal|Pulled|Container image "{IMAGE}" already present on machine and can be accessed by the pod'
NEVER = f'Container image "{IMAGE}" is not present with pull policy of Never'


class Private(MemoryRuntime):
    """Images of a registry that wants a login, and may be down."""

    login: RegistryCredential | None = RIGHT
    is_down = False
    broken: errors.Error | None = None

    async def find_image(self, reference: str) -> ports.Image | None:
        if self.broken is not None:
            raise self.broken
        return await super().find_image(reference)

    async def pull_image(
        self,
        reference: str,
        credentials: Sequence[RegistryCredential],
        progress: Callable[[ports.PullProgress], None] | None = None,
    ) -> ports.Image:
        image = await super().pull_image(reference, credentials, progress)
        name = credentials[0].username if credentials else "nobody"
        if self.is_down or (self.login is not None and self.login not in credentials):
            del self.images[reference]
        if self.is_down:
            raise errors.Unavailable(f"{reference}: r.io cannot be reached", reason="ErrImagePull")
        if self.login is not None and self.login not in credentials:
            raise errors.Unauthenticated(f"{reference}: the registry refuses {name}", reason="ErrImagePull")
        return image

    @property
    def users(self) -> list[str]:
        """Whose logins were tried."""
        return [logins[0].username if logins else "" for logins in self.logins]


class Images:
    """A node's images as pods of several namespaces ask for them."""

    def __init__(self, node: Node, root: Path) -> None:
        self.machines = Private(node.clock, address=IP)
        self.machines.publish(IMAGE)
        self.recorder = MemoryRecorder()
        self.objects = MemoryObjects()
        self.docker = DockerLogins(root / "docker", {})
        self.docker.path.parent.mkdir()
        self.world: World = replace(
            node.world,
            machines=self.machines,
            objects=self.objects,
            recorder=self.recorder,
            image_access=NodeImageAccess(root / "image-access", docker=self.docker),
        )

    def secret(self, namespace: str, name: str, **logins: str) -> None:
        auths = {host: {"auth": base64.b64encode(login.encode()).decode()} for host, login in logins.items()}
        self.objects.secrets[namespace, name] = objects.Secret(
            metadata=meta.ObjectMeta(namespace=namespace, name=name, uid=f"uid-{namespace}-{name}"),
            type="kubernetes.io/dockerconfigjson",
            data={".dockerconfigjson": json.dumps({"auths": {"r.io/team": auths["r"]}}).encode()},
        )

    async def ensure(
        self, namespace: str = "a", *secrets: str, policy: str = "IfNotPresent", image: str = IMAGE, uid: str = "u"
    ) -> ports.Image:
        self.recorder.events.clear()
        container = api.Container(name="vm", image=image, image_pull_policy=policy)
        references = [meta.LocalObjectReference(name=name) for name in secrets]
        spec = api.PodSpec(containers=[container], image_pull_secrets=references)
        bound = msgspec.structs.replace(
            pod(), metadata=meta.ObjectMeta(name="p", namespace=namespace, uid=uid), spec=spec
        )
        return await image_policy.ensure(self.world, bound, PodRef(namespace, "p", uid), container)

    async def refused(self, *args: str, policy: str = "IfNotPresent", image: str = IMAGE) -> errors.Error:
        with pytest.raises(errors.Error) as caught:
            await self.ensure(*args, policy=policy, image=image)
        return caught.value


@pytest.fixture
def images(node: Node, tmp_path: Path) -> Images:
    return Images(node, tmp_path)


# --- imagePullPolicy


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("r.io/vm:latest", "Always"),
        ("r.io:5000/vm", "Always"),
        ("r.io/vm:1", "IfNotPresent"),
        (f"r.io/vm@sha256:{'1' * 64}", "IfNotPresent"),
        (f"r.io/vm:latest@sha256:{'1' * 64}", "Always"),
    ],
)
def test_default_policy_by_tag(image: str, policy: str) -> None:
    assert image_policy.default_policy(parse(image)) == policy


async def test_if_not_present_asks_nobody_for_an_image_that_is_here(images: Images) -> None:
    images.machines.login = None
    await images.ensure()
    images.machines.is_down = True
    await images.ensure("b", "absent")
    assert images.recorder.events == [PRESENT]
    assert len(images.machines.logins) == 1
    assert images.objects.reads == []


async def test_always_asks_each_time(images: Images) -> None:
    images.machines.login = None
    await images.ensure()
    await images.ensure(policy="Always")
    assert len(images.machines.logins) == 2
    images.machines.is_down = True
    error = await images.refused(policy="Always")
    assert error.reason == "ErrImagePull"
    assert images.recorder.events == [
        f'vm|Normal|Pulling|Pulling image "{IMAGE}"',
        f'vm|Warning|Failed|Failed to pull image "{IMAGE}": {IMAGE}: r.io cannot be reached',
        "vm|Warning|Failed|Error: ErrImagePull",
    ]


async def test_an_unsaid_policy_is_the_default_one(images: Images) -> None:
    images.machines.login = None
    latest = IMAGE.replace(":1", ":latest")
    images.machines.publish(latest)
    for image, pulls in ((latest, 2), (IMAGE, 1)):
        images.machines.logins.clear()
        await images.ensure(policy="", image=image)
        await images.ensure(policy="", image=image)
        assert len(images.machines.logins) == pulls


async def test_never(images: Images) -> None:
    error = await images.refused(policy="Never")
    assert (error.reason, str(error)) == ("ErrImageNeverPull", NEVER)
    assert images.recorder.events == [
        f"vm|Warning|ErrImageNeverPull|{NEVER}",
        "vm|Warning|Failed|Error: ErrImageNeverPull",
    ]
    assert images.machines.logins == []
    images.machines.images[IMAGE] = images.machines.registry[IMAGE]
    await images.ensure(policy="Never")
    assert images.recorder.events == [PRESENT]


async def test_no_image_name(images: Images) -> None:
    error = await images.refused(image="Not A Reference")
    assert error.reason == "InvalidImageName"
    assert str(error).startswith('Failed to apply default image tag "Not A Reference": couldn\'t parse image name')
    assert images.recorder.events == [
        f"vm|Warning|InspectFailed|{error}",
        "vm|Warning|Failed|Error: InvalidImageName",
    ]


async def test_an_engine_that_cannot_say_what_it_has(images: Images) -> None:
    images.machines.broken = errors.Unavailable("no engine")
    error = await images.refused()
    assert (error.reason, str(error)) == ("ImageInspectError", f'Failed to inspect image "{IMAGE}": no engine')
    assert images.recorder.events[1:] == ["vm|Warning|Failed|Error: ImageInspectError"]


# --- Logins


async def test_all_candidates_in_turn_the_pods_before_the_nodes(images: Images) -> None:
    images.secret("a", "one", r="wrong:p")
    images.secret("a", "two", r="older:p")
    images.secret("a", "same", r="wrong:p")
    images.docker.path.write_text('{"auths": {"r.io": {"username": "right", "password": "p"}}}')
    await images.ensure("a", "one", "two", "same")
    assert images.machines.users == ["wrong", "older", "right"]
    assert images.recorder.events[0] == f'vm|Normal|Pulling|Pulling image "{IMAGE}"'
    assert images.recorder.events[1].endswith(" including waiting). Image size: 4096 bytes.")


async def test_the_nodes_helpers_are_not_waited_for_where_the_pods_own_login_does(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard: a key store that waits for its owner holds up every pod of the node."""

    async def hang(*_: object) -> object:
        raise AssertionError("the node's logins were asked for")

    monkeypatch.setattr(DockerLogins, "lookup", hang)
    images.secret("a", "pull", r="right:p")
    await images.ensure("a", "pull")
    assert images.machines.users == ["right"]


async def test_what_all_candidates_were_told(images: Images) -> None:
    images.secret("a", "one", r="wrong:p")
    images.secret("a", "two", r="older:p")
    error = await images.refused("a", "one", "two")
    refusals = f"{IMAGE}: the registry refuses wrong, {IMAGE}: the registry refuses older"
    assert str(error) == f'failed to pull image "{IMAGE}": [{refusals}]'
    assert isinstance(error, errors.Unauthenticated)
    images.machines.is_down = True
    error = await images.refused("a", "one", "two")
    assert str(error) == f'failed to pull image "{IMAGE}": {IMAGE}: r.io cannot be reached'


async def test_damage_is_not_asked_for_again_with_another_login(images: Images) -> None:
    images.secret("a", "one", r="wrong:p")
    images.secret("a", "two", r="right:p")
    images.machines.pull.faults = [errors.Integrity("damaged")]
    assert isinstance(await images.refused("a", "one", "two"), errors.Integrity)
    assert images.machines.users == ["wrong"]


async def test_a_login_of_one_namespace_is_none_of_another(images: Images) -> None:
    images.secret("a", "pull", r="right:p")
    error = await images.refused("b", "pull", "", "gone")
    assert images.machines.users == [""]
    text = "Unable to retrieve some image pull secrets (pull, gone); attempting to pull the image may not succeed."
    assert images.recorder.events[0] == f"|Warning|FailedToRetrieveImagePullSecret|{text}"
    assert error.reason == "ErrImagePull"


async def test_a_secret_that_cannot_be_read_is_named(images: Images) -> None:
    images.secret("a", "pull", r="right:p")
    stored = images.objects.secrets["a", "pull"]
    images.objects.secrets["a", "pull"] = msgspec.structs.replace(stored, data={".dockerconfigjson": b"hunter2"})
    error = await images.refused("a", "pull")
    assert (error.reason, "secret a/pull is not a Docker config" in str(error)) == ("ErrImagePull", True)
    assert "hunter2" not in str([str(error), *images.recorder.events])


async def test_no_secret_in_events_or_errors(images: Images) -> None:
    images.secret("a", "pull", r="wrong:hunter2")
    error = await images.refused("a", "pull")
    assert "hunter2" not in str([str(error), *images.recorder.events])


# --- Images that are here, of others


async def test_private_image_of_one_namespace_is_not_started_by_another(images: Images) -> None:
    images.secret("a", "pull", r="right:p")
    images.secret("b", "pull", r="wrong:p")
    await images.ensure("a", "pull")
    assert str(await images.refused("b")) == f'failed to pull image "{IMAGE}": {IMAGE}: the registry refuses nobody'
    images.machines.images[IMAGE] = images.machines.registry[IMAGE]
    assert "refuses wrong" in str(await images.refused("b", "pull"))
    assert images.recorder.events[1:] == [
        f'vm|Warning|Failed|Failed to pull image "{IMAGE}": {IMAGE}: the registry refuses wrong',
        "vm|Warning|Failed|Error: ErrImagePull",
    ]
    images.machines.images[IMAGE] = images.machines.registry[IMAGE]
    error = await images.refused("b", "pull", policy="Never")
    assert (error.reason, str(error)) == ("ErrImageNeverPull", NEVER)


async def test_the_registry_may_vouch_for_the_other_namespace(images: Images) -> None:
    images.secret("a", "pull", r="right:p")
    images.secret("b", "own", r="another:q")
    await images.ensure("a", "pull")
    images.machines.login = RegistryCredential("another", "q")
    await images.ensure("b", "own")
    assert images.machines.users == ["right", "another"]
    images.machines.is_down = True
    for namespace, name in (("a", "pull"), ("b", "own")):
        await images.ensure(namespace, name)
        assert images.recorder.events == [PRESENT]


async def test_a_known_login_works_offline_in_whatever_namespace(images: Images) -> None:
    images.secret("a", "pull", r="right:p")
    images.secret("b", "copy", r="right:p")
    await images.ensure("a", "pull")
    images.machines.is_down = True
    await images.ensure("b", "copy")
    await images.ensure("b", "copy", policy="Never")
    assert images.recorder.events == [PRESENT]
    assert (await images.refused("b")).reason == "ErrImagePull"


async def test_what_the_nodes_own_login_pulled_is_for_all(images: Images) -> None:
    images.docker.path.write_text('{"auths": {"r.io": {"username": "right", "password": "p"}}}')
    await images.ensure("a")
    images.machines.is_down = True
    await images.ensure("b")
    assert images.recorder.events == [PRESENT]


# --- How many at a time


async def test_pulls_of_machines_wait_for_a_slot_and_tell_for_how_long(images: Images) -> None:
    images.machines.login = None
    images.world = replace(images.world, pull_slots=asyncio.Semaphore(1))
    images.machines.pull.hold()
    first = aio.spawn(images.ensure("a", policy="Always", uid="u-1"), name="first")
    await images.machines.pull.reached.wait()
    second = aio.spawn(images.ensure("a", policy="Always", uid="u-2"), name="second")
    await asyncio.sleep(5)
    assert len(images.machines.logins) == 1
    assert images.recorder.events == [f'vm|Normal|Pulling|Pulling image "{IMAGE}"']
    images.machines.pull.release()
    await asyncio.gather(first, second)
    told = [event.split("in ", 1)[1] for event in images.recorder.events if "Successfully" in event]
    assert [text.partition(" including")[0] for text in told] == ["5s (5s", "0ms (5s"]
