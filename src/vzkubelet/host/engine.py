"""The Docker engine, which runs side-cars."""

from collections.abc import Iterator

from vzkubelet.config import without_userinfo
from vzkubelet.errors import Forbidden, Unavailable
from vzkubelet.host.finding import Finding, ok, warning
from vzkubelet.host.probe import Probe
from vzkubelet.host.service import systemd
from vzkubelet.host.subject import Subject

_WHY = "pods with more than one container stay Pending"


def docker(probe: Probe, subject: Subject) -> Iterator[Finding]:
    host = subject.config.sidecars.docker_host
    try:
        version = probe.docker_version(host)
    except Forbidden as exc:
        fix = f"sudo usermod -aG docker {probe.facts.user}   # then log in again"
        yield warning("docker", str(exc), _WHY, fix)
    except Unavailable as exc:
        if probe.facts.system == "darwin":
            fixes = [
                "brew install colima docker && colima start",
                'export DOCKER_HOST="unix://$HOME/.colima/default/docker.sock"',
            ]
        elif probe.which("dockerd") is None:
            fixes = ["sudo apt-get install docker.io"]
        elif not systemd.is_init(probe):
            fixes = ["sudo service docker start   # or, where there is no such script: sudo dockerd"]
        else:
            fixes = ["sudo systemctl enable --now docker"]
        yield warning("docker", str(exc), _WHY, *fixes)
    else:
        yield ok("docker", f"Docker engine {version} at {without_userinfo(host)}")
