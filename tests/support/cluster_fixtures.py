"""Pytest fixtures for real components, each private to this run: control plane, nodes, registry, Docker engine.

A missing program fails the test: these are never skipped. The session's cluster, registry and engine are shared by all
tests, so tests keep to names of their own; the factories make further ones that a test may break.
"""

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Protocol

import pytest

from tests.cluster import audit, node_credential
from tests.cluster.api import ApiClient
from tests.cluster.binary import cluster_binary
from tests.cluster.control_plane import ControlPlane
from tests.cluster.docker_engine import DockerEngine
from tests.cluster.node_credential import NodeCredential
from tests.cluster.registry import BasicAuth, Registry

_NEEDS_BINARY = frozenset({"cluster", "provoked_cluster", "cluster_factory"})


class Kubectl(Protocol):
    """Runs kubectl as the admin of the session's cluster; raises CalledProcessError when `check` and it fails."""

    def __call__(
        self, *arguments: str, stdin: bytes | None = None, timeout_s: float = 60.0, check: bool = True
    ) -> CompletedProcess[bytes]: ...


class MintCredential(Protocol):
    """Joins a node of a fresh or a given name to the session's cluster, or to another."""

    def __call__(
        self,
        node_name: str | None = None,
        *,
        addresses: Sequence[str] = ("127.0.0.1",),
        cluster: ControlPlane | None = None,
        client_lifetime_s: int | None = None,
    ) -> NodeCredential: ...


class StartRegistry(Protocol):
    def __call__(self, *, basic_auth: BasicAuth | None = None, extra: dict[str, object] | None = None) -> Registry: ...


class StartDockerEngine(Protocol):
    def __call__(self, *, bridge: str | None = None) -> DockerEngine: ...


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Build the control plane before any test's clock runs: a cold build takes longer than a test may."""
    if session.config.option.collectonly:
        return
    if any(_NEEDS_BINARY.intersection(getattr(item, "fixturenames", ())) for item in session.items):
        capture = session.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            cluster_binary()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The session's control plane, its audit log without a refusal."""
    with ControlPlane(tmp_path_factory.mktemp("cluster")) as control_plane:
        yield control_plane
        assert_no_refusal(control_plane)


@pytest.fixture(scope="session")
def provoked_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane for tests that provoke refusals: no audit log of another one may hold any."""
    with ControlPlane(tmp_path_factory.mktemp("provoked-cluster")) as control_plane:
        yield control_plane


@pytest.fixture
def cluster_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], ControlPlane]]:
    """Starts further control planes (8 s each), stopped after the test, their audit logs without a refusal."""
    made: list[ControlPlane] = []
    with contextlib.ExitStack() as started:

        def start() -> ControlPlane:
            made.append(started.enter_context(ControlPlane(tmp_path_factory.mktemp("cluster"))))
            return made[-1]

        yield start
    for cluster in made:
        assert_no_refusal(cluster)


def assert_no_refusal(cluster: ControlPlane) -> None:
    """No node of this cluster asked for what it may not have, or got what only a role binding grants."""
    events = audit.read(cluster.audit_log)
    assert [str(event) for event in audit.forbidden_node_requests(events)] == []
    assert [str(event) for event in audit.requests_outside_node_grants(events)] == []


@pytest.fixture
def kubectl(cluster: ControlPlane) -> Kubectl:
    return cluster.run_kubectl


@pytest.fixture
def admin_api(cluster: ControlPlane) -> ApiClient:
    return cluster.api


@pytest.fixture
def namespace(cluster: ControlPlane) -> Iterator[str]:
    """A fresh namespace, deleted without waiting when the test is over."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    cluster.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def mint_credential(cluster: ControlPlane, tmp_path: Path) -> MintCredential:
    counter = itertools.count()
    session_cluster = cluster

    def mint(
        node_name: str | None = None,
        *,
        addresses: Sequence[str] = ("127.0.0.1",),
        cluster: ControlPlane | None = None,
        client_lifetime_s: int | None = None,
    ) -> NodeCredential:
        return node_credential.mint(
            cluster or session_cluster,
            node_name or f"node-{uuid.uuid4().hex[:8]}",
            tmp_path / f"credential-{next(counter)}",
            addresses=addresses,
            client_lifetime_s=client_lifetime_s,
        )

    return mint


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The session's registry, without authentication."""
    with Registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture
def registry_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartRegistry]:
    """Starts registries that a test may stop, restart or corrupt."""
    with contextlib.ExitStack() as started:

        def start(*, basic_auth: BasicAuth | None = None, extra: dict[str, object] | None = None) -> Registry:
            directory = tmp_path_factory.mktemp("registry")
            return started.enter_context(Registry(directory, basic_auth=basic_auth, extra=extra))

        yield start


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """The session's Docker engine, with the image busybox:test."""
    with DockerEngine(tmp_path_factory.mktemp("docker")) as engine:
        engine.import_busybox()
        yield engine


@pytest.fixture
def docker_engine_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDockerEngine]:
    """Starts engines that a test may kill or restart."""
    with contextlib.ExitStack() as started:

        def start(*, bridge: str | None = None) -> DockerEngine:
            return started.enter_context(DockerEngine(tmp_path_factory.mktemp("docker"), bridge=bridge))

        yield start
