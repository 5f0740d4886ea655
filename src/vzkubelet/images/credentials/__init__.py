"""Logins for registries: where they come from, which are tried, and which have opened which image.

`NodeImageAccess` is the port's implementation, `DockerLogins` what ``docker login`` stores. Everything else is inside.
"""

from vzkubelet.images.credentials.access import NodeImageAccess
from vzkubelet.images.credentials.docker_logins import DockerLogins, server_of
from vzkubelet.images.credentials.providers import Providers, load
from vzkubelet.images.credentials.verification import Verification

__all__ = ["DockerLogins", "NodeImageAccess", "Providers", "Verification", "load", "server_of"]
