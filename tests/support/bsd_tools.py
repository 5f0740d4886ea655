"""Stand-ins of the commands of macOS for a system that runs on Linux.

Each takes what its manual page documents and refuses everything else, with the message of BSD's getopt(3) and a code
of its own: a script that passes here uses no option of GNU. What macOS has not (setsid, flock, timeout)
is absent. Programs that a test starts by their own PATH are Linux's, and so is the kernel.
"""

import shlex
import shutil
from pathlib import Path

OPTIONS = {
    "basename": "as:",
    "cat": "belnstuv",
    "chmod": "fhvHLPR",
    "chown": "fhnvxHLPR",
    "dirname": "",
    "env": "0iP:S:u:v",
    "grep": "ABCDEFGHILMOPSRUVZabce:f:hilm:nopqrsuvwxz",
    "id": "AFGMPagnpru",
    "kill": "ls:",
    "ln": "Ffhinsvw",
    "ls": "1@ABCFGHILOPRSTUWabcdefghiklmnopqrstuvwxy",
    "mkdir": "m:pv",
    "mkfifo": "m:",
    "mktemp": "dp:qt:u",
    "mv": "fhinv",
    "readlink": "fn",
    "rm": "IPRWdfirvx",
    "rmdir": "pv",
    "sed": "EI:ae:f:i:lnru",
    "sleep": "",
    "sort": "CMRSTVbcdfghik:mno:rst:uz",
    "touch": "A:acd:fhmr:t:",
    "tr": "Ccdsu",
}
"""Commands whose Linux counterpart does the same with these options (getopt strings of macOS 14's manual pages)."""

_CHECKED = """#!/bin/sh
name={name}
refuse() {{
	echo "$name: illegal option -- $OPTARG" >&2
	exit 64
}}
while getopts :{options} option; do
	case $option in '?' | :) refuse ;; esac
done
exec {real} "$@"
"""

_USAGE = """#!/bin/sh
usage() {
	echo "usage: $1" >&2
	exit 64
}
root() {
	[ "$(/usr/bin/id -u)" = 0 ] || { echo "$1: Operation not permitted" >&2; exit 77; }
}
"""

SCRIPTS = {
    "apfs.util": """
[ "$*" = -t ] || usage "apfs.util -t"
root apfs.util
/bin/mount -o remount,rw,bind /
while IFS='	' read -r entry target; do
	[ -e "/$entry" ] || ln -s "$target" "/$entry"
done </etc/synthetic.conf
/bin/mount -o remount,ro,bind /
exit 253
""",
    "dd": """
for operand; do
	case $operand in if=* | of=* | bs=* | count=* | skip=* | seek=* | conv=*) ;; *) usage "dd [operands ...]" ;; esac
done
exec /usr/bin/dd "$@"
""",
    "df": """
[ "$1" = -kP ] && [ $# = 2 ] || usage "df [-kP] path"
exec /usr/bin/df -kP "$2"
""",
    "dscl": """
case "$#$1$2$4" in
"4/Search-readPrimaryGroupID" | "4.-readPrimaryGroupID") ;;
*) usage "dscl [options] datasource [command]" ;;
esac
case $3 in /Groups/*) ;; *) usage "dscl . -read /Groups/name key" ;; esac
line=$(/usr/bin/getent group "${3#/Groups/}")
case $line in
"${3#/Groups/}:"*) echo "PrimaryGroupID: $(echo "$line" | /usr/bin/cut -d: -f3)" ;;
*)
	echo "<dscl_cmd> DS Error: -14136 (eDSRecordNotFound)" >&2
	exit 56
	;;
esac
""",
    "halt": 'root halt\ntouch "/private/var/run/powered-off"\n',
    "head": """
case $1 in
-n | -c) exec /usr/bin/head "$@" ;;
-*) usage "head [-n lines | -c bytes] [file ...]" ;;
esac
exec /usr/bin/head "$@"
""",
    "hostname": '[ $# = 0 ] || usage "hostname [-fs] [name-of-host]"\nexec /usr/bin/uname -n\n',
    "mount": """
[ $# = 0 ] || usage "mount [-dfruvw] [-o options] [-t type] special node (listing only here)"
while read -r device point kind options rest; do
	printf '%s on %b (%s, %s)\\n' "$device" "$(echo "$point" | /usr/bin/sed 's/\\\\0/\\\\00/g')" "$kind" "$options"
done </proc/mounts
""",
    "mount_virtiofs": """
read_only=
[ "$1" = -r ] && read_only=1 && shift
[ $# = 2 ] || usage "mount_virtiofs [-r] tag directory"
share=/private/var/host/$1
[ -d "$share" ] || { echo "mount_virtiofs: fs_tag $1 not found" >&2; exit 66; }
[ -d "$2" ] || { echo "mount_virtiofs: failed to mount $2: No such file or directory" >&2; exit 1; }
root "mount_virtiofs: failed to mount $2"
/bin/mount -o bind "$share" "$2" || exit
[ -z "$read_only" ] || /bin/mount -o remount,bind,ro "$2"
""",
    "osascript": """
[ "$#$1$2$3" = "4-lJavaScript-e" ] || usage "osascript [-l language] [-e script]"
case $4 in *host_statistics*) ;; *) echo "execution error: Error on line 1 (-2700)" >&2; exit 1 ;; esac
read -r cpu user nice system idle rest </proc/stat
exec /usr/bin/perl -MMIME::Base64 -e 'print encode_base64(pack("L4", @ARGV))' "$user" "$system" "$idle" "$nice"
""",
    "ps": """
[ "$*" = "-A -o time=" ] || usage "ps [-AaCcEefhjlMmrSTvwXx] [-O fmt | -o fmt] ..."
/usr/bin/ps -A -o cputimes= | while read -r seconds; do
	printf '%4d:%02d.00\\n' $((seconds / 60)) $((seconds % 60))
done
""",
    "scutil": """
place=/private/var/db/$2
case $1 in
--get)
	[ $# = 2 ] || usage "scutil --get pref"
	[ -e "$place" ] || { echo "$2: not set"; exit 1; }
	exec /bin/cat "$place"
	;;
--set)
	[ $# = 3 ] || usage "scutil --set pref [newval]"
	root "scutil: SCPreferencesLock() failed"
	case $2$3 in
	LocalHostName*[!A-Za-z0-9-]*) echo "SCPreferencesSetLocalHostName() failed: Invalid argument" >&2; exit 1 ;;
	esac
	echo "$3" >"$place"
	[ "$2" != HostName ] || exec /usr/bin/hostname "$3"
	;;
*) usage "scutil --get pref | --set pref [newval]" ;;
esac
""",
    "shutdown": """
[ "$*" = "-h now" ] || usage "shutdown [-] [-h [-u] [-n] | -r [-n] | -s | -k] time [warning-message ...]"
root "shutdown: NOT super-user"
touch /private/var/run/powered-off
""",
    "stat": """
[ "$1" = -f ] && [ $# = 3 ] || usage "stat [-FLnq] [-f format | -l | -r | -s | -x] [-t timefmt] [file ...]"
case $2 in %u | %z) ;; *) usage "stat -f %u | %z file (here)" ;; esac
exec /usr/bin/stat -c "$(echo "$2" | /usr/bin/tr z s)" "$3"
""",
    "sw_vers": """
case $* in
-productName) echo macOS ;;
-productVersion) echo 15.1 ;;
-buildVersion) echo 24B83 ;;
*) usage "sw_vers [--help|--productName|--productVersion|--productVersionExtra|--buildVersion]" ;;
esac
""",
    "sysctl": """
number=
[ "$1" = -n ] && number=1 && shift
[ $# = 1 ] || usage "sysctl [-bdehiNnoqx] name[=value] ..."
case $1 in
hw.memsize)
	while read -r key kib rest; do [ "$key" = MemTotal: ] && break; done </proc/meminfo
	value=$((kib * 1024))
	;;
hw.ncpu) value=$(/usr/bin/nproc) ;;
hw.pagesize) value=16384 ;;
*) echo "sysctl: unknown oid '$1'" >&2; exit 1 ;;
esac
[ "$number" ] && echo "$value" || echo "$1: $value"
""",
    "tail": """
slow=
while getopts :Ffrqb:c:n: option; do
	case $option in
	f | F) slow='-s 0.1' ;;
	'?' | :) echo "tail: illegal option -- $OPTARG" >&2; usage "tail [-F | -f | -r] [-q] [-b # | -c # | -n #]" ;;
	esac
done
exec /usr/bin/tail $slow "$@"
""",
    "umount": """
[ $# = 1 ] || usage "umount [-fv] special | node"
root "umount: unmount($1) failed"
exec /bin/umount "$1"
""",
    "uname": """
case $1 in
'' | -s) echo Darwin ;;
-n) exec /usr/bin/uname -n ;;
-m) echo arm64 ;;
-r) echo 24.1.0 ;;
*) usage "uname [-amnoprsv]" ;;
esac
""",
    "vm_stat": """
[ $# = 0 ] || usage "vm_stat [[-c count] interval]"
while read -r key kib rest; do
	case $key in MemFree:) free=$kib ;; MemAvailable:) available=$kib ;; esac
done </proc/meminfo
echo "Mach Virtual Memory Statistics: (page size of 16384 bytes)"
printf '%-40s %12d.\\n' "Pages free:" $((free / 16)) "Pages active:" 1000 "Pages inactive:" $(((available - free) / 16))
printf '%-40s %12d.\\n' "Pages speculative:" 10 "Pages wired down:" 500 '"Translation faults":' 47 "Pages purgeable:" 5
""",
    "wc": """
[ "$1" = -c ] && [ $# = 1 ] || usage "wc [-Lclmw] [file ...]"
printf '%8d\\n' "$(/usr/bin/wc -c)"
""",
}
"""Commands whose output or effect is macOS's own. They do what they can on Linux: shares are directories of the system,
`apfs.util -t` (whose exit code says nothing, as on a Mac) links what synthetic.conf names."""

REAL = ("perl", "sudo", "true", "false")


def install(directory: Path) -> None:
    """Fill the directory, which becomes the whole PATH of a session."""
    directory.mkdir(parents=True)
    for name, options in OPTIONS.items():
        text = _CHECKED.format(name=name, options=shlex.quote(options), real=_program(name))
        _write(directory / name, text)
    for name, text in SCRIPTS.items():
        _write(directory / name, _USAGE + text.lstrip("\n"))
    for name in REAL:
        (directory / name).symlink_to(_program(name))
    (directory / "sh").symlink_to("/bin/sh")


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    assert found is not None, f"{name} is not installed: run make setup"
    return found
