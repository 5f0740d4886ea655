# Host name, shares and power-off of a macOS guest. Expects: root (empty for root, else sudo has to make it so), password
# (of the login user, for a sudo that asks for one; may be empty).

shares=/private/var/run/vzkubelet/shares
tops=/private/var/vzkubelet

failed() {
	echo "error $1"
	exit 0
}

# Once, for a function called in $( ) remembers nothing.
elevate() {
	[ "$root" ] && [ "$password" ] && ! sudo -n true 2>/dev/null && root=asks
}

as_root() {
	case $root in
	'') "$@" ;;
	# -k, so that it always reads the password and never leaves it to the command.
	asks) printf '%s\n' "$password" | sudo -k -S -p '' -- "$@" ;;
	*) sudo -n -- "$@" ;;
	esac
}

name() {
	[ "$(scutil --get HostName 2>/dev/null)" = "$1" ] && return
	reason=$(as_root scutil --set HostName "$1" 2>&1) || failed "host name: $reason"
	# What Bonjour announces: two guests with one name would be renamed by it. It takes no dots.
	label=$(printf '%s' "${1%%.*}" | tr -c 'A-Za-z0-9-' -)
	as_root scutil --set LocalHostName "$label" >/dev/null 2>&1
	as_root scutil --set ComputerName "$label" >/dev/null 2>&1
}

mounted() {
	case "$(mount)" in *" on $1 ("*) return ;; esac
	return 1
}

# The root directory is on the sealed system volume: an entry in it can only be a synthetic one, which leads to a
# directory on the data volume (synthetic.conf(5)). apfs.util makes it without a restart and tells nothing by its code.
synthetic() {
	as_root mkdir -p "$tops/$1" || return
	line=$(printf '%s\t%s' "$1" "${tops#/}/$1")
	grep -qxF "$line" /etc/synthetic.conf 2>/dev/null ||
		as_root sh -c 'printf "%s\n" "$1" >>/etc/synthetic.conf' sh "$line" || return
	as_root /System/Library/Filesystems/apfs.fs/Contents/Resources/apfs.util -t
	[ -d "/$1" ]
}

directory() {
	[ -d "$1" ] && return
	mkdir -p "$1" 2>/dev/null && return
	reason=$(as_root mkdir -p "$1" 2>&1) && return
	top=${1#/}
	top=${top%%/*}
	[ -e "/$top" ] && failed "$1: $reason"
	why=$(synthetic "$top" 2>&1) && reason=$(as_root mkdir -p "$1" 2>&1) && return
	failed "$1: mount the volume below /Users, /opt, /usr/local, /private or /Volumes, or add \"$top\" to\
 /etc/synthetic.conf of the image and restart it once: macOS keeps / read-only and /$top could not be added ($why)"
}

# Mounts the share TAG at a directory, as root or, where root is not to be had, as its owner. A mount that this session
# may not read is none: macOS keeps network volumes from what the SSH server starts until it has full disk access.
attach() {
	reason=
	for flag in $3 ''; do
		# Where the option is unknown the host alone refuses writes, as it does for every read-only share.
		reason=$(as_root mount_virtiofs $flag "$1" "$2" 2>&1 || mount_virtiofs $flag "$1" "$2" 2>&1) || continue
		listed=$(ls "$2" 2>&1 >/dev/null) && return
		reason=$listed
		as_root umount "$2" >/dev/null 2>&1
		case $listed in
		*"not permitted"*)
			reason="$reason: the guest's SSH server needs full disk access; in the image turn on System Settings >\
 General > Sharing > Remote Login > Allow full disk access for remote users"
			;;
		esac
		return 1
	done
	return 1
}

# Where all of the share TAG is: a mount of our own.
share() {
	source=$shares/$1
	mounted "$source" && return
	reason=$(as_root mkdir -p "$source" 2>&1) && attach "$1" "$source" '' && return
	failed "share $1: $reason"
}

# There are no bind mounts: a place that cannot be a mount is a symbolic link.
link() {
	[ "$(readlink "$2")" = "$1" ] && return
	directory "$(dirname "$2")"
	if [ -d "$2" ] && ! [ -L "$2" ]; then
		rmdir "$2" 2>/dev/null || as_root rmdir "$2" 2>/dev/null ||
			failed "$2: is a directory that is not empty; a macOS guest can only link a volume to it"
	fi
	ln -sfn "$1" "$2" 2>/dev/null || reason=$(as_root ln -sfn "$1" "$2" 2>&1) || failed "$2: $reason"
}

# place TAG SUB_PATH MOUNT_PATH ro|rw
place() {
	[ -L "$3" ] && [ -e "$3" ] && case "$(readlink "$3")" in "$shares/$1"*) return ;; esac
	if [ -z "$2" ]; then
		directory "$3"
		target=$(cd "$3" && pwd -P) || failed "$3: cannot be entered"
		mounted "$target" && return
		flag=
		[ "$4" = rw ] || flag=-r
		attach "$1" "$target" $flag && return
		failed "$3: $reason"
	fi
	share "$1"
	[ -e "$source/$2" ] || failed "$3: the volume has no $2"
	link "$source/$2" "$3"
}
