# Resolves a user and a group of the guest, as container runtimes do it, and says which program can switch to them.
# Expects: user, group (may be empty). Prints "user UID GID TOOL [NAME]" or "fail user" or "fail group".

entry() {
	while IFS=: read -r name password number rest || [ "$name" ]; do
		[ "$name" = "$2" ] && return
		[ "$number" = "$2" ] && return
	done <"$1"
	return 1
}

tool() {
	case $(setpriv --help 2>&1) in
	*--reuid*) echo setpriv; return ;;
	esac
	for name in su-exec gosu su; do
		command -v $name >/dev/null && { echo $name; return; }
	done
	echo none
}

resolve() {
	if entry /etc/passwd "$user"; then
		uid=$number gid=${rest%%:*} login=$name
	else
		case $user in
		*[!0-9]*)
			uid=$(id -u "$user" 2>/dev/null) || { echo "fail user"; return; }
			gid=$(id -g "$user") login=$user
			;;
		*) uid=$user gid=0 login= ;;
		esac
	fi
	if [ "$group" ]; then
		if entry /etc/group "$group"; then
			gid=$number
		else
			case $group in
			*[!0-9]*) echo "fail group"; return ;;
			esac
			gid=$group
		fi
	fi
	echo "user $uid $gid $(tool) $login"
}
resolve
