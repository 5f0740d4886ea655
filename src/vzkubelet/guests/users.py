"""Users of a guest: who a process runs as, and what in the guest can switch to them."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from vzkubelet.errors import Forbidden, NotFound, Unavailable, clip
from vzkubelet.guests.connections import Connections
from vzkubelet.guests.launch import REASON
from vzkubelet.guests.shell import load, quote


@dataclass(frozen=True, slots=True)
class User:
    """A resolved ``user[:group]``; `name` is empty for an id that the guest does not know."""

    uid: int
    gid: int
    name: str
    explicit_group: bool
    tool: str
    """The path of what can switch users in the guest, or ``none``."""

    @property
    def owner(self) -> str:
        return f"{self.uid}:{self.gid}"

    def switch(self, command: str) -> str:
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
            case _:
                raise Forbidden(
                    f"cannot run as user {self.owner}: the guest has none of setpriv (of util-linux), su-exec and gosu",
                    reason=REASON,
                )


class Users:
    """Resolves users of one guest and remembers them: every exec of a pod asks for the same one."""

    def __init__(self, connections: Connections, login_uid: int, login_gid: int, login_name: str) -> None:
        self._connections = connections
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
        if self._login_uid != 0:
            raise Forbidden(
                f"cannot run as user {text}: the guest's login user {self._login_name} is not root", reason=REASON
            )
        return found

    async def _resolve(self, user: str, group: str) -> User:
        reply = await self._connections.run(f"user={quote(user)} group={quote(group)}\n{load('users.sh')}")
        match reply.stdout.split():
            case ["user", uid, gid, tool, *name]:
                return User(int(uid), int(gid), name[0] if name else "", bool(group), tool)
            case ["fail", "user"]:
                raise NotFound(f"unable to find user {user}: no matching entries in passwd file", reason=REASON)
            case ["fail", "group"]:
                raise NotFound(f"unable to find group {group}: no matching entries in group file", reason=REASON)
            case _:
                raise Unavailable(f"the guest could not resolve user {user}: {clip(reply.stdout + reply.stderr)}")
