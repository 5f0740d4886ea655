"""Where a node's logins for registries come from, and how strictly the images that are here are kept from pods."""

import os

from vzkubelet.config import Config, docker_config_directory, helper_environment
from vzkubelet.images.credentials import DockerLogins, NodeImageAccess, Providers, Verification, load

RECORDS = "access"
"""Beside the images: whose login opened them is true for all agents of the host."""
PLACES = ("/usr/local/bin", "/opt/homebrew/bin")
"""Where people's installers put credential helpers: a LaunchAgent is given a PATH without them."""


def program_environment() -> dict[str, str]:
    """For credential helpers and plugins."""
    environment = helper_environment()
    path = [place for place in environment.get("PATH", os.defpath).split(os.pathsep) if place]
    return {**environment, "PATH": os.pathsep.join(dict.fromkeys((*path, *PLACES)))}


def require(config: Config) -> None:
    """Raises InvalidInput: a credential provider or an allow list that cannot be used."""
    _verification(config)
    _providers(config)


def image_access(config: Config) -> NodeImageAccess:
    """Raises InvalidInput: an allow list that cannot be used."""
    directory = docker_config_directory()
    return NodeImageAccess(
        config.cache_dir / "images" / RECORDS,
        _verification(config),
        None if directory is None else DockerLogins(directory, program_environment()),
        lambda: _providers(config),
    )


def _verification(config: Config) -> Verification:
    return Verification(config.images.credential_verification, config.images.credential_allowlist)


def _providers(config: Config) -> Providers:
    file, programs = config.images.credential_provider_config, config.images.credential_provider_bin_dir
    if file is None or programs is None:
        return Providers({})
    return load(file, programs, program_environment())
