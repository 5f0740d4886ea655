"""One setting: where it comes from, its default and how it is read."""

from dataclasses import dataclass

from vzkubelet.config import values
from vzkubelet.config.values import Parser


@dataclass(frozen=True, slots=True)
class Host:
    """What defaults depend on; `home` is where ``~`` points, empty when nobody knows."""

    name: str
    platform: str
    home: str


@dataclass(frozen=True, slots=True)
class Option:
    name: str
    target: str
    """``group.field`` of Config."""
    parse: Parser
    help: str
    default: str | None = None
    """Text that is parsed like any other; None = the setting is None when not given."""
    env: str = ""
    alias: str = ""
    """Another name in the configuration file: that of the kubelet's own configuration."""
    flag: bool = True
    metavar: str = "TEXT"
    required: bool = False
    secret: bool = False
    is_file: bool = False
    """The daemon does not start when this file cannot be read."""

    @property
    def is_switch(self) -> bool:
        """Whether the flag may stand without a value."""
        return self.parse is values.boolean

    @property
    def label(self) -> str:
        """How a message names the setting when it is missing."""
        both = f"--{self.name} ({self.env})" if self.env else f"--{self.name}"
        return both if self.flag else self.env
