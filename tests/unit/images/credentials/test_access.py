"""Who may use an image that is here: the kubelet's image pull manager, and what a crash leaves of its records."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from vzkubelet import errors
from vzkubelet.config import CredentialVerification
from vzkubelet.images.credentials import NodeImageAccess, Verification
from vzkubelet.images.credentials.access import Find
from vzkubelet.images.credentials.docker_logins import DockerLogins
from vzkubelet.images.credentials.provider_config import ProviderSettings
from vzkubelet.images.credentials.providers import Answer, Provider, Providers
from vzkubelet.images.credentials.pull_records import Credentials, PulledSecret, PullRecords
from vzkubelet.model.docker_config import Candidate, RegistryCredential, SecretCoordinates
from vzkubelet.model.reference import parse
from vzkubelet.ports import Image, ImageKind, WantedImage

REFERENCE = parse("r.io/team/vm:1")
MACHINE, SIDECAR = ImageKind.MACHINE, ImageKind.SIDECAR


def wanted(text: str = str(REFERENCE), kind: ImageKind = MACHINE) -> WantedImage:
    return WantedImage(text, parse(text), kind)


IMAGE = wanted()
IMAGE_ID = "r.io/team/vm@sha256:" + "1" * 64
OTHER_ID = "r.io/team/vm@sha256:" + "2" * 64
LOGIN = RegistryCredential("u", "hunter2")
OF_A = Candidate(LOGIN, SecretCoordinates("a", "pull", "uid-a"))
CHANGED = Candidate(RegistryCredential("u", "new"), OF_A.secret)
RECREATED = Candidate(RegistryCredential("u", "new"), SecretCoordinates("a", "pull", "uid-new"))
COPIED = Candidate(LOGIN, SecretCoordinates("b", "copy", "uid-b"))
OTHER = Candidate(RegistryCredential("v", "other"), SecretCoordinates("b", "pull", "uid-c"))
NODE = Candidate(LOGIN)


class Daemon:
    """An agent on records that outlive it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.restart()

    def restart(self, policy: CredentialVerification = CredentialVerification.NEVER_PRELOADED) -> None:
        self.access = NodeImageAccess(self.root, Verification(policy))

    async def pull(self, used: Candidate | None, image_id: str = IMAGE_ID, kind: ImageKind = MACHINE) -> None:
        async with self.access.pulling(wanted(kind=kind)) as recording:
            await recording.succeeded(image_id, used)

    async def die_while_pulling(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            async with self.access.pulling(IMAGE):
                raise asyncio.CancelledError
        self.restart()

    async def may_use(
        self, *candidates: Candidate, image_id: str = IMAGE_ID, image: str = IMAGE.text, kind: ImageKind = MACHINE
    ) -> bool:
        async def own() -> Sequence[Candidate]:
            return candidates

        return await self.access.may_use(wanted(image, kind), image_id, own)


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "access")


async def test_what_somebody_else_brought_is_for_all(daemon: Daemon) -> None:
    assert await daemon.may_use()
    assert not daemon.root.exists()


@pytest.mark.parametrize(
    ("used", "candidates", "allowed"),
    [
        (OF_A, [], False),
        (OF_A, [OTHER], False),
        (OF_A, [NODE], False),
        (OF_A, [RECREATED], False),
        (OF_A, [OF_A], True),
        (OF_A, [OTHER, OF_A], True),
        (OF_A, [COPIED], True),  # the same login in another namespace
        (OF_A, [CHANGED], True),  # the same secret with another login
        (NODE, [], True),
        (None, [], True),
    ],
)
async def test_after_a_pull(used: Candidate | None, candidates: list[Candidate], allowed: bool, daemon: Daemon) -> None:
    await daemon.pull(used)
    assert await daemon.may_use(*candidates) is allowed
    daemon.restart()
    assert await daemon.may_use(*candidates) is allowed


@pytest.mark.parametrize(
    ("policy", "preloaded", "pulled"),
    [
        (CredentialVerification.NEVER, True, True),
        (CredentialVerification.NEVER_PRELOADED, True, False),
        (CredentialVerification.NEVER_ALLOWLISTED, False, False),
        (CredentialVerification.ALWAYS, False, False),
    ],
)
async def test_policies(policy: CredentialVerification, preloaded: bool, pulled: bool, daemon: Daemon) -> None:
    daemon.restart(policy)
    assert await daemon.may_use() is preloaded
    await daemon.pull(OF_A)
    assert await daemon.may_use() is pulled
    assert await daemon.may_use(OF_A)


async def test_the_pods_secrets_are_not_read_without_need(daemon: Daemon) -> None:
    async def own() -> Sequence[Candidate]:
        raise errors.Unavailable("the API server is away")

    await daemon.pull(None)
    assert await daemon.access.may_use(IMAGE, IMAGE_ID, own)
    await daemon.pull(OF_A, OTHER_ID)
    with pytest.raises(errors.Unavailable):
        await daemon.access.may_use(IMAGE, OTHER_ID, own)


async def test_each_login_that_pulls_is_remembered(daemon: Daemon) -> None:
    await daemon.pull(OF_A)
    await daemon.pull(OTHER)
    assert await daemon.may_use(OF_A)
    assert await daemon.may_use(OTHER)
    await daemon.pull(None)
    assert await daemon.may_use()


async def test_what_only_matched_is_remembered_as_well(daemon: Daemon) -> None:
    await daemon.pull(OF_A)
    assert await daemon.may_use(CHANGED)
    # From now on the changed login opens the image in whatever secret, and the old one does not.
    assert await daemon.may_use(Candidate(CHANGED.login, OTHER.secret))
    assert not await daemon.may_use(COPIED)


async def test_another_repository_is_another_question(daemon: Daemon) -> None:
    await daemon.pull(None)
    assert not await daemon.may_use(image="r.io/other/vm:1")


async def test_a_new_image_under_the_tag_is_another_question(daemon: Daemon) -> None:
    await daemon.pull(OF_A)
    await daemon.pull(OTHER, OTHER_ID)
    assert not await daemon.may_use(OF_A, image_id=OTHER_ID)
    assert await daemon.may_use(OTHER, image_id=OTHER_ID)


async def test_a_side_cars_image_under_the_same_name_is_another_question(daemon: Daemon) -> None:
    await daemon.pull(None, kind=MACHINE)
    await daemon.pull(OF_A, kind=SIDECAR)
    assert await daemon.may_use(kind=MACHINE)
    assert not await daemon.may_use(kind=SIDECAR)


async def test_image_of_a_pull_that_died_before_its_record_opens_to_nobody(daemon: Daemon) -> None:
    await daemon.die_while_pulling()
    assert not await daemon.may_use(OF_A)
    daemon.restart()
    assert not await daemon.may_use()


async def test_a_failed_pull_after_a_death_does_not_open_the_image(daemon: Daemon) -> None:
    await daemon.die_while_pulling()
    with pytest.raises(errors.Unauthenticated):
        async with daemon.access.pulling(IMAGE):
            raise errors.Unauthenticated("no")
    assert not await daemon.may_use()
    await daemon.pull(OF_A)
    assert await daemon.may_use(OF_A)
    assert not await daemon.may_use()


async def test_a_failed_pull_leaves_what_a_person_brings_afterwards_open(daemon: Daemon) -> None:
    with pytest.raises(errors.Unavailable):
        async with daemon.access.pulling(IMAGE):
            raise errors.Unavailable("no")
    assert await daemon.may_use()
    assert list((daemon.root / "pulling").iterdir()) == []


async def test_an_image_is_closed_from_its_arrival_to_its_record(daemon: Daemon) -> None:
    async with daemon.access.pulling(IMAGE) as recording:
        assert not await daemon.may_use(OF_A)
        async with daemon.access.pulling(IMAGE) as second:
            await second.succeeded(IMAGE_ID, OF_A)
        assert await daemon.may_use(OF_A)
        assert not await daemon.may_use()
        await recording.succeeded(IMAGE_ID, OF_A)
    assert list((daemon.root / "pulling").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"kind": "machine", "imageId": 5}'])
async def test_a_damaged_record_opens_to_nobody_until_the_next_pull(content: bytes, daemon: Daemon) -> None:
    await daemon.pull(None)
    [record] = (daemon.root / "pulled").iterdir()
    record.write_bytes(content)
    assert not await daemon.may_use(OF_A)
    await daemon.pull(OF_A)
    assert await daemon.may_use(OF_A)


async def test_unreadable_records_open_nothing(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(PullRecords, "pulled", fail)
    assert not await daemon.may_use(OF_A)
    monkeypatch.setattr(PullRecords, "intend", fail)
    with pytest.raises(errors.Unavailable, match="Failed to record image pull intent") as caught:
        await daemon.pull(OF_A)
    assert caught.value.reason == "ErrImagePull"


async def test_a_pull_that_cannot_be_recorded_opens_to_nobody(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(PullRecords, "add", full)
        await daemon.pull(OF_A)
    daemon.restart()
    assert not await daemon.may_use(OF_A)


async def test_records_hold_no_login_and_are_for_their_owner_alone(daemon: Daemon) -> None:
    await daemon.pull(OF_A)
    files = [path for path in daemon.root.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == {"access", "pulled"}
    assert not any(b"hunter2" in path.read_bytes() for path in files)
    assert {path.stat().st_mode & 0o077 for path in [*files, daemon.root]} == {0}
    [record] = (daemon.root / "pulled").iterdir()
    mapping = json.loads(record.read_bytes())["credentialMapping"]["r.io/team/vm"]
    [secret] = mapping["kubernetesSecrets"]
    assert (secret["namespace"], secret["name"], secret["uid"]) == ("a", "pull", "uid-a")
    assert len(secret["credentialHash"]) == 64
    other = PullRecords(daemon.root.with_name("other")).secret(OF_A)
    assert other is not None
    assert other.credential_hash != secret["credentialHash"]  # guesses cannot be hashed ahead


async def test_a_record_has_an_end_for_what_only_matches(daemon: Daemon) -> None:
    records = PullRecords(daemon.root)
    known = [PulledSecret("n", f"s{number}", "u", f"{number}") for number in range(100)]
    records.add(MACHINE, IMAGE_ID, REFERENCE.repository, Credentials(tuple(known)))
    await daemon.pull(OF_A)
    assert await daemon.may_use(COPIED)  # its login is known, so it is let in, and not added
    record = records.pulled(MACHINE, IMAGE_ID)
    assert record is not None
    assert len(record.credential_mapping[REFERENCE.repository].kubernetes_secrets) == 101


# --- What is looked for


def finders(*present: str, engine: bool = True) -> dict[ImageKind, Find]:
    """Machines' images that are here; side-cars' where there is an engine that knows."""

    async def find_machine(name: str) -> Image | None:
        return Image(name, IMAGE_ID, 1) if name in present else None

    async def find_sidecar(name: str) -> Image | None:
        if not engine:
            raise errors.Unavailable("no engine")
        return await find_machine(name)

    return {MACHINE: find_machine, SIDECAR: find_sidecar}


async def test_records_of_images_that_are_gone_go_too(daemon: Daemon) -> None:
    for kind in ImageKind:
        await daemon.pull(OF_A, IMAGE_ID, kind)
        await daemon.pull(OF_A, OTHER_ID, kind)
    await daemon.pull(OF_A, f"sha256:{'3' * 64}", SIDECAR)
    await daemon.access.prune(finders(IMAGE_ID), before=0.0)
    assert not await daemon.may_use(image_id=OTHER_ID)
    await daemon.access.prune(finders(IMAGE_ID, engine=False), before=4e9)
    assert await daemon.may_use(image_id=OTHER_ID)
    for image_id in (IMAGE_ID, OTHER_ID):
        assert not await daemon.may_use(image_id=image_id, kind=SIDECAR), "an engine that is down has lost nothing"
    await daemon.access.prune(finders(IMAGE_ID), before=4e9)
    assert await daemon.may_use(image_id=OTHER_ID, kind=SIDECAR)
    for kind in ImageKind:
        assert not await daemon.may_use(kind=kind)
    assert not await daemon.may_use(image_id=f"sha256:{'3' * 64}", kind=SIDECAR), "an ID cannot be looked for"


async def test_image_that_is_pulled_again_while_it_is_looked_for_keeps_its_record(tmp_path: Path) -> None:
    times = iter([100.0, 200.0])
    records = PullRecords(tmp_path, lambda: next(times))
    nothing_new = Credentials(node_pods_accessible=True)
    records.add(MACHINE, IMAGE_ID, REFERENCE.repository, nothing_new)
    [gone] = records.records()
    records.add(MACHINE, IMAGE_ID, REFERENCE.repository, nothing_new)
    records.remove(gone)
    assert records.pulled(MACHINE, IMAGE_ID) is not None


@pytest.mark.parametrize(("present", "opens"), [(True, False), (False, True)])
async def test_what_a_dead_pull_did_not_bring_is_not_held_against_who_brings_it_later(
    present: bool, opens: bool, daemon: Daemon
) -> None:
    await daemon.die_while_pulling()
    await daemon.access.recover(finders(*([IMAGE.text] if present else [])))
    assert list((daemon.root / "pulling").iterdir()) == []
    assert await daemon.may_use() is opens
    daemon.restart()
    assert await daemon.may_use() is opens


async def test_a_dead_pull_of_an_engine_that_is_down_waits(daemon: Daemon) -> None:
    with pytest.raises(asyncio.CancelledError):
        async with daemon.access.pulling(wanted(kind=SIDECAR)):
            raise asyncio.CancelledError
    daemon.restart()
    await daemon.access.recover(finders(engine=False))
    assert not await daemon.may_use(kind=SIDECAR)


async def test_logins_of_the_node_each_once_and_a_broken_file_costs_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask(image: str) -> Answer:
        return Answer("Image", {"r.io": RegistryCredential("plugin"), "r.io/team": RegistryCredential("file", "f")})

    settings = ProviderSettings("test", "credentialprovider.kubelet.k8s.io/v1", ("r.io",), 0.0)
    docker = DockerLogins(tmp_path, {})
    docker.path.write_text('{"auths": {"r.io": {"username": "file", "password": "f"}}}')
    providers = Providers({"t": Provider(settings, ask)})
    access = NodeImageAccess(tmp_path / "a", docker=docker, providers=lambda: providers)
    plugin = Candidate(RegistryCredential("plugin"))
    assert await access.node_candidates(REFERENCE) == (Candidate(RegistryCredential("file", "f")), plugin)
    docker.path.write_text("{")
    assert plugin in await access.node_candidates(REFERENCE)
    assert "the Docker config gives no login for r.io/team/vm" in caplog.text
    await access.close()


async def test_plugins_that_cannot_be_loaded_cost_only_themselves_until_they_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Hazard: what a node runs cannot be removed because a plugin's program was removed first."""
    loads: list[Providers] = []

    def load() -> Providers:
        if not loads:
            raise errors.InvalidInput("plugin binary executable x did not exist")
        return loads[0]

    async def ask(image: str) -> Answer:
        return Answer("Image", {"r.io": LOGIN})

    access = NodeImageAccess(tmp_path / "a", providers=load)
    assert await access.node_candidates(REFERENCE) == ()
    assert "did not exist" in caplog.text
    settings = ProviderSettings("test", "credentialprovider.kubelet.k8s.io/v1", ("r.io",), 0.0)
    loads.append(Providers({"t": Provider(settings, ask)}))
    assert await access.node_candidates(REFERENCE) == (NODE,)
    await access.close()
