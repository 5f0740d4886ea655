"""Credential plugins of kubeconfigs that misbehave as programs do."""

from pathlib import Path

import pytest

from vzkubelet.errors import DeadlineExceeded, InvalidInput
from vzkubelet.kube import exec_plugin
from vzkubelet.kube.kubeconfig import Access, ExecConfig


def plugin(directory: Path, script: str) -> Access:
    (directory / "login").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "login").chmod(0o700)
    config = ExecConfig(api_version="client.authentication.k8s.io/v1", command="./login", install_hint="ask the shop")
    return Access("https://127.0.0.1:1", exec=config, exec_directory=directory)


async def run(access: Access) -> None:
    assert access.exec is not None
    await exec_plugin.run(access, access.exec, {"PATH": "/bin:/usr/bin"})


@pytest.mark.parametrize("script", ["sleep 600", "sleep 600 & wait", "head -c 300000 /dev/zero; sleep 600"])
async def test_a_plugin_that_does_not_end_is_ended_with_what_it_started(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_plugin, "TIMEOUT_S", 0.5)
    with pytest.raises(DeadlineExceeded, match=r"credential plugin .*login has not answered in 0.5 s"):
        await run(plugin(tmp_path, script))


async def test_a_plugin_that_prints_without_end_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="prints more than") as caught:
        await run(plugin(tmp_path, "head -c 3000000 /dev/zero"))
    assert "ask the shop" not in str(caught.value)
