"""Where a node's logins for registries come from, and how strictly the images that are here are kept from pods."""

import os

from vzkubelet.config import Config, docker_config_directory, helper_environment
from vzkubelet.images.credentials import DockerLogins, NodeImageAccess, Verification, load

RECORDS = "access"
"""Beside the images: whose login opened them is true for all agents of the host."""
PLACES = ("/usr/local/bin", "/opt/homebrew/bin")
"""Where people's installers put credential helpers: a LaunchAgent is given a PATH without them."""


def program_environment() -> dict[str, str]:
    """For credential helpers and plugins."""
    environment = helper_environment()
    path = [place for place in environment.get("PATH", os.defpath).split(os.pathsep) if place]
    return {**environment, "PATH": os.pathsep.join(dict.fromkeys((*path, *PLACES)))}


def image_access(config: Config) -> NodeImageAccess:
    """Raises InvalidInput: a credential provider or an allow list that cannot be used."""
    settings, environment = config.images, program_environment()
    directory = docker_config_directory()
    programs = settings.credential_provider_bin_dir
    providers = None
    if settings.credential_provider_config is not None and programs is not None:
        providers = load(settings.credential_provider_config, programs, environment)
    return NodeImageAccess(
        config.cache_dir / "images" / RECORDS,
        Verification(settings.credential_verification, settings.credential_allowlist),
        None if directory is None else DockerLogins(directory, environment),
        providers,
    )
