"""Users of a guest: who a process runs as, and what in the guest can switch to them."""

from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from vzkubelet.errors import Forbidden, NotFound, Unavailable, clip
from vzkubelet.guests.connections import Connections
from vzkubelet.guests.launch import REASON
from vzkubelet.guests.shell import load, quote

_PERL = "/usr/bin/perl"


class Place(Enum):
    """Where a switched command runs, which says what sudo has to be helped with: it closes all but 0, 1 and 2."""

    SUPERVISED = "exec 3>report 4<>ready 7>out.p 8>err.p;[ -p in ]&&exec 6<in||exec 6</dev/null;chown %s out.p err.p;"
    """In a supervised process's directory: opened once more by name, as root, because the directory is private. The
    process may open its own output again (``/dev/stderr``)."""
    SESSION = ""
    TERMINAL = "exec 3<&0 0<&1;"
    """The script comes as stdin in place of descriptor 3; the terminal is what it writes to."""


_EXEC = 'exec "$@"'

_BECOME = (
    "($u,@g)=split/ /,shift;"
    "$(=$g[0];$)=join q( ),$g[0],@g;"  # the real group; the effective one with the supplementary groups
    "($<,$>)=($u,$u);"
    "$<==$u&&$>==$u&&$(==$g[0]||die qq(cannot become user $u\n);"
    "%s"
    "exec{$ARGV[0]}@ARGV;exit 127"
)
"""Perl that becomes a user as setpriv does: in the same process, with all descriptors (perlvar(1)). Unlike su it takes
ids that have no name, and starts no login shell."""


@dataclass(frozen=True, slots=True)
class User:
    """A resolved ``user[:group]``; `name` is empty for an id that the guest does not know."""

    uid: int
    gid: int
    name: str
    explicit_group: bool
    tool: str
    """The path of what can switch users in the guest, ``sudo`` for a login user that is not root, or ``none``."""
    groups: tuple[int, ...] = ()
    """The user's own supplementary groups, where the tool does not look for them itself."""

    @property
    def owner(self) -> str:
        return f"{self.uid}:{self.gid}"

    @property
    def elevated(self) -> bool:
        """Whether only sudo reaches what runs as this user."""
        return self.tool == "sudo"

    def switch(self, command: str, place: Place) -> str:
        """`command` (words for the shell; the last one may be a script) run as this user, in the same process.

        Supplementary groups are the user's own, and none when a group was given, as in container runtimes.
        Raises Forbidden when nothing in the guest can do it.
        """
        own_groups = self.name and not self.explicit_group
        match PurePosixPath(self.tool).name:
            case "setpriv":
                groups = "--init-groups" if own_groups else "--clear-groups"
                return f"{self.tool} --reuid={self.uid} --regid={self.gid} {groups} -- {command}"
            case "su-exec" | "gosu":
                return f"{self.tool} {quote(self.name) if own_groups else self.owner} {command}"
            case "su" if own_groups:
                return f"{self.tool} -s /bin/sh {quote(self.name)} -c {quote('exec ' + command)}"
            case "perl":
                return f"{self._become(place)} {command}"
            case "sudo":
                opened = place.value.replace("%s", self.owner)
                prelude = f"sudo -n -- /bin/sh -c {quote(opened + _EXEC)} sh"
                return f"{prelude} {self._become(place)} {command}{' <&3' if place is Place.TERMINAL else ''}"
            case _:
                raise Forbidden(
                    f"cannot run as user {self.owner}: the guest has none of setpriv (of util-linux), su-exec and gosu",
                    reason=REASON,
                )

    def _become(self, place: Place) -> str:
        """A process group of its own, so that a signal for the group reaches the command; but a terminal has one."""
        group = "" if place is Place.TERMINAL else "setpgrp 0,0;"
        ids = " ".join(map(str, (self.uid, self.gid, *(self.groups or (self.gid,)))))
        return f"{_PERL} -e {quote(_BECOME % group)} {quote(ids)}"


class Users:
    """Resolves users of one guest and remembers them: every exec of a pod asks for the same one."""

    def __init__(self, connections: Connections, login_uid: int, login_gid: int, login_name: str, os: str) -> None:
        self._connections = connections
        self._script = "macos_users.sh" if os == "Darwin" else "users.sh"
        self._login_uid = login_uid
        self._login_gid = login_gid
        self._login_name = login_name
        self._known: dict[str, User] = {}

    async def other(self, text: str) -> User | None:
        """The user to switch to for ``user[:group]``; None when that is who we are.

        Raises: NotFound (the guest has no such user or group), Forbidden (the login user may not switch).
        """
        user, _, group = text.partition(":")
        if not group and user in ("", self._login_name, str(self._login_uid)):
            return None
        if text not in self._known:
            self._known[text] = await self._resolve(user or self._login_name, group)
        found = self._known[text]
        if (found.uid, found.gid) == (self._login_uid, self._login_gid) and not found.explicit_group:
            return None
        if self._login_uid != 0 and not found.elevated:
            sudo = " and its sudo asks for a password" if self._script == "macos_users.sh" else ""
            raise Forbidden(
                f"cannot run as user {text}: the guest's login user {self._login_name} is not root{sudo}", reason=REASON
            )
        return found

    async def _resolve(self, user: str, group: str) -> User:
        reply = await self._connections.run(f"user={quote(user)} group={quote(group)}\n{load(self._script)}")
        match reply.stdout.split():
            case ["user", uid, gid, tool, groups, *name]:
                own = () if groups == "-" else tuple(map(int, groups.split(",")))
                return User(int(uid), int(gid), name[0] if name else "", bool(group), tool, own)
            case ["fail", "user"]:
                raise NotFound(f"unable to find user {user}: no matching entries in passwd file", reason=REASON)
            case ["fail", "group"]:
                raise NotFound(f"unable to find group {group}: no matching entries in group file", reason=REASON)
            case _:
                raise Unavailable(f"the guest could not resolve user {user}: {clip(reply.stdout + reply.stderr)}")
