"""The settings of the way into guests: who logs in, with what, and how long that may take."""

from vzkubelet.config import values
from vzkubelet.config.option import Option
from vzkubelet.config.values import Parser


def table(path: Parser) -> tuple[Option, ...]:
    return (*_login(), *_keys(path), *_connections())


def _login() -> tuple[Option, ...]:
    return (
        Option(
            "vz-ssh-user",
            "guests.ssh_user",
            values.text,
            "Login of the guests.",
            env="VZ_SSH_USER",
            flag=False,
            required=True,
        ),
        Option(
            "vz-ssh-password",
            "guests.ssh_password",
            values.secret,
            "Password of the guests; not needed with a private key.",
            env="VZ_SSH_PASSWORD",
            flag=False,
            required=True,
            secret=True,
        ),
    )


def _keys(path: Parser) -> tuple[Option, ...]:
    return (
        Option(
            "vz-ssh-private-key-base64",
            "guests.ssh_key",
            values.base64_data,
            "Private key of the guests' login, base64 of its PEM or OpenSSH text; before a path and a password.",
            env="VZ_SSH_PRIVATE_KEY_BASE64",
            flag=False,
            secret=True,
        ),
        Option(
            "vz-ssh-private-key-path",
            "guests.ssh_key_path",
            path,
            "File with the private key of the guests' login.",
            env="VZ_SSH_PRIVATE_KEY_PATH",
            flag=False,
            is_file=True,
        ),
        Option(
            "vz-ssh-private-key-passphrase",
            "guests.ssh_key_passphrase",
            values.secret,
            "Passphrase of the private key.",
            env="VZ_SSH_PRIVATE_KEY_PASSPHRASE",
            flag=False,
            secret=True,
        ),
    )


def _connections() -> tuple[Option, ...]:
    return (
        Option(
            "vz-ssh-kex-algorithms",
            "guests.ssh_kex_algorithms",
            values.words,
            "Key exchanges offered to guests, the preferred one first, separated by commas; by default all safe ones.",
            env="VZ_SSH_KEX_ALGORITHMS",
            flag=False,
        ),
        Option(
            "vz-ssh-dial-timeout",
            "guests.ssh_dial_timeout_s",
            values.positive_seconds,
            "How long one login may take, the connection included.",
            default="15s",
            env="VZ_SSH_DIAL_TIMEOUT",
            flag=False,
        ),
        Option(
            "vz-ssh-readiness-timeout",
            "guests.ssh_readiness_timeout_s",
            values.positive_seconds,
            "How long a started guest may take until it lets us in; then the container fails.",
            default="300s",
            env="VZ_SSH_READINESS_TIMEOUT",
            flag=False,
        ),
    )
