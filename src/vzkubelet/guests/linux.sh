# Host name and mounts of a Linux guest. Expects: root ("" or a command that makes the next one run as root).

shares=/run/vzkubelet/shares

failed() {
	echo "error $1"
	exit 0
}

name() {
	[ "$(uname -n)" = "$1" ] && return
	reason=$($root hostname "$1" 2>&1) || failed "hostname: $reason"
}

# The mount table has blanks and backslashes of paths in octal.
mounted() {
	path=$(printf '%s' "$1" | sed 's/\\/\\134/g; s/ /\\040/g; s/	/\\011/g')
	while read -r device point rest; do
		case $point in "$path") return ;; esac
	done </proc/mounts
	return 1
}

# A share is mounted once at a place of our own; its directories are bound from there to where the pod wants them.
share() {
	mounted "$shares/$1" && return
	reason=$($root mkdir -p "$shares/$1" 2>&1) || failed "share $1: $reason"
	reason=$($root mount -t virtiofs "$1" "$shares/$1" 2>&1) || failed "share $1: $reason"
}

# A directory (or, for a file, the directory it is in) with symbolic links resolved, as the mount table shows it.
resolved() {
	if [ -d "$1" ]; then
		(cd "$1" && pwd -P)
	else
		echo "$(cd "${1%/*}/" && pwd -P)/${1##*/}"
	fi
}

# place TAG SUB_PATH MOUNT_PATH ro|rw
place() {
	source=$shares/$1${2:+/$2}
	[ -e "$3" ] && mounted "$(resolved "$3")" && return
	if [ -d "$source" ]; then
		reason=$($root mkdir -p "$3" 2>&1) || failed "$3: $reason"
	else
		reason=$($root mkdir -p "${3%/*}/" 2>&1 && $root touch "$3" 2>&1) || failed "$3: $reason"
	fi
	# busybox looks a mount up by its name in the mount table, which knows no symbolic links (/var/run).
	target=$(resolved "$3")
	reason=$($root mount -o bind "$source" "$target" 2>&1) || failed "$3: $reason"
	[ "$4" = rw ] || reason=$($root mount -o remount,bind,ro "$target" 2>&1) || failed "$3: $reason"
}
