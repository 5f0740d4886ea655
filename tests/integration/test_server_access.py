"""Who may do what at the kubelet API, and certificates that change while it serves."""

import asyncio
import dataclasses
import shutil
from pathlib import Path

import aiohttp
import pytest

from tests.cluster import pki
from tests.cluster.pki import KeyPair, Pki
from tests.support import exec_client
from tests.support.exec_client import ExecClient, UpgradeRefused, exec_path, exit_code
from tests.support.local_backend import LocalBackend
from tests.support.server_fixtures import FakeReviews, Served, serving
from vzkubelet import errors
from vzkubelet.config.settings import ServerSettings
from vzkubelet.model.review import UserInfo
from vzkubelet.server.listener import Listener

ROUTES = {
    "/pods": ["pods", "proxy"],
    "/healthz": ["healthz", "proxy"],
    "/healthz/ping": ["healthz", "proxy"],
    "/stats/summary": ["stats"],
    "/containerLogs/default/pod/main": ["proxy"],
    "/nonsense": ["proxy"],
    "/metrics/resource": ["metrics"],
    "/configz": ["configz", "proxy"],
    "/runningpods/": ["pods", "proxy"],
    "/logs/": ["log"],
}


@pytest.fixture
def nobody(server_pki: Pki) -> KeyPair:
    return server_pki.issue_client("nobody", "nobody", ["people"])


@pytest.mark.parametrize("path", ROUTES)
async def test_without_a_grant_every_route_is_forbidden_in_the_kubelets_words(
    served: Served, nobody: KeyPair, path: str
):
    subresources = ROUTES[path]
    status, text = await served.get(path, served.tls(nobody))
    listed = " ".join(subresources)
    assert (status, text) == (403, f"Forbidden (user=nobody, verb=get, resource=nodes, subresource(s)=[{listed}])\n")
    assert served.reviews.questions == [("nobody", "get", "node", subresource) for subresource in subresources]
    await served.get(path, served.tls(nobody))
    assert len(served.reviews.questions) == len(subresources), "denials are remembered for a while"


@pytest.mark.parametrize("path", ROUTES)
async def test_the_narrow_subresource_is_enough_and_so_is_the_fallback(served: Served, nobody: KeyPair, path: str):
    for subresource in ROUTES[path]:
        served.reviews.grants = {("nobody", "get", subresource)}
        async with serving(served.settings, served.files) as other:
            other.reviews.grants = served.reviews.grants
            other.backend.log["main"] = []
            status, _ = await other.get(path, other.tls(nobody))
        assert status in (200, 404)


@pytest.mark.parametrize("path", ROUTES)
async def test_nobody_in_particular_is_unauthorized_everywhere(served: Served, path: str):
    anonymous = exec_client.client_tls(served.files.ca.certificate, None)
    assert await served.get(path, anonymous) == (401, "Unauthorized")
    assert await served.get(path, anonymous, Authorization="Bearer stolen") == (401, "Unauthorized")
    assert await served.get(path, anonymous, Authorization="Basic eDp5") == (401, "Unauthorized")


async def test_reading_the_proxy_subresource_is_no_shell(served: Served, nobody: KeyPair):
    """A GET with upgrade is a stream all the same; the kubelet lets ``get nodes/proxy`` run commands."""
    served.reviews.grants = {("nobody", "get", "proxy")}
    path = exec_path(["true"], output=True)
    with pytest.raises(UpgradeRefused) as caught:
        async with ExecClient.connect(served.port, served.tls(nobody), path, method="GET"):
            pass
    assert caught.value.status == 403
    assert "verb=create" in caught.value.body


async def test_a_token_is_reviewed_once_and_its_groups_count(served: Served):
    anonymous = exec_client.client_tls(served.files.ca.certificate, None)
    served.reviews.tokens["good"] = UserInfo(username="robot", groups=["robots"])
    served.reviews.grants.add(("robot", "get", "healthz"))
    for _ in range(3):
        assert await served.get("/healthz", anonymous, Authorization="Bearer good") == (200, "ok")
    assert served.reviews.questions == [("token", "good"), ("robot", "get", "node", "healthz")]


async def test_certificates_of_another_ca_do_not_get_in(served: Served, tmp_path: Path):
    other = pki.create(tmp_path / "other", server_addresses=(), service_address="10.0.0.1")
    stranger = other.issue_client("stranger", pki.KUBELET_CLIENT_USER)
    with pytest.raises(aiohttp.ClientError):
        await served.get("/healthz", served.tls(stranger))


async def test_a_serving_certificate_is_no_client_certificate(served: Served):
    with pytest.raises(aiohttp.ClientError):
        await served.get("/healthz", served.tls(served.files.apiserver))


async def test_an_api_server_that_gives_no_opinion_is_500_and_asked_again(served: Served, nobody: KeyPair):
    served.reviews.failing = True
    status, text = await served.get("/stats/summary", served.tls(nobody))
    assert (status, text) == (500, "Authorization error (user=nobody, verb=get, resource=nodes, subresource=stats)")
    served.reviews.failing = False
    assert (await served.get("/stats/summary", served.tls(nobody)))[0] == 403


async def test_unverified_clients_are_let_in_and_the_log_is_loud(
    server_settings: ServerSettings, server_pki: Pki, caplog: pytest.LogCaptureFixture
):
    async with serving(dataclasses.replace(server_settings, verify_clients=False), server_pki) as served:
        anonymous = exec_client.client_tls(server_pki.ca.certificate, None)
        assert await served.get("/healthz", anonymous) == (200, "ok")
        assert served.reviews.questions == []
    assert "LETS ANYBODY IN" in caplog.text


async def test_changed_certificate_and_ca_are_used_for_new_connections(
    server_settings: ServerSettings, server_pki: Pki, tmp_path: Path
):
    cert, key, ca = tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt"
    shutil.copy(server_pki.apiserver.certificate, cert)
    shutil.copy(server_pki.apiserver.key, key)
    shutil.copy(server_pki.ca.certificate, ca)
    changed = dataclasses.replace(server_settings, cert_file=cert, key_file=key, client_ca_file=ca)
    renewed = pki.create(tmp_path / "renewed", server_addresses=(), service_address="10.0.0.1")
    async with serving(changed, server_pki) as served, served.client("cat", input=True, output=True) as old_client:
        await old_client.open("error", "stdin", "stdout")
        shutil.copy(renewed.apiserver.certificate, cert)  # the key is still the old one: half written
        assert (await served.get("/healthz"))[0] == 200
        shutil.copy(renewed.apiserver.key, key)
        shutil.copy(renewed.ca.certificate, ca)
        with pytest.raises(aiohttp.ClientError):
            await served.get("/healthz")
        tls = exec_client.client_tls(renewed.ca.certificate, renewed.kubelet_client)
        assert (await served.get("/healthz", tls))[0] == 200
        old_identity = exec_client.client_tls(renewed.ca.certificate, server_pki.kubelet_client)
        with pytest.raises(aiohttp.ClientError):
            await served.get("/healthz", old_identity)
        await old_client.send("stdin", b"still here")
        await old_client.end("stdin")
        assert exit_code(await old_client.outcome()) == 0
        assert old_client.received["stdout"] == b"still here"


async def test_only_http_1_1_and_tls_1_2_upwards(served: Served):
    tls = served.tls()
    tls.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=tls)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    await exec_client.close(writer)


def test_unusable_files_are_named(server_settings: ServerSettings, tmp_path: Path):
    with pytest.raises(errors.InvalidInput, match=r"missing\.crt"):
        Listener(
            dataclasses.replace(server_settings, cert_file=tmp_path / "missing.crt"),
            "node",
            LocalBackend(),
            FakeReviews(),
        )
    with pytest.raises(errors.InvalidInput, match="no-verify-clients"):
        Listener(server_settings, "node", LocalBackend(), None)


async def test_a_port_in_use_is_named(served: Served):
    second = Listener(dataclasses.replace(served.settings, port=served.port), "node", served.backend, served.reviews)
    with pytest.raises(errors.Unavailable, match=f":{served.port}"):
        await second.start()
    await second.close()
