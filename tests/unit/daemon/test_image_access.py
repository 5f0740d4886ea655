"""Where an agent's logins for registries come from."""

import json
from pathlib import Path

import pytest

from vzkubelet import config
from vzkubelet.daemon.image_access import image_access, program_environment
from vzkubelet.model.docker_config import Candidate, RegistryCredential
from vzkubelet.model.reference import parse


def test_programs_are_told_no_secrets_and_found_where_installers_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VZ_SSH_PASSWORD", "hunter2")
    monkeypatch.setenv("PATH", "/usr/bin:/bin:/usr/local/bin")
    environment = program_environment()
    assert "hunter2" not in environment.values()
    assert environment["PATH"] == "/usr/bin:/bin:/usr/local/bin:/opt/homebrew/bin"
    monkeypatch.delenv("PATH")
    assert program_environment()["PATH"].endswith(":/usr/local/bin:/opt/homebrew/bin")


@pytest.mark.looptime(False)
async def test_the_docker_config_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"r.io": {"auth": "dTpw"}}}))
    settings = config.load(
        {"nodename": "n", "cache-dir": str(tmp_path / "cache")}, {}, purpose=config.Purpose.STANDALONE
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    found = await image_access(settings).node_candidates(parse("r.io/vm:1"))
    assert found == (Candidate(RegistryCredential("u", "p")),)
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert await image_access(settings).node_candidates(parse("r.io/vm:1")) == ()
