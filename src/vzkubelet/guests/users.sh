# Resolves a user and a group of the guest, as container runtimes do it, and says which program (a path, or none) can
# switch to them. Expects: user, group (may be empty). Prints "user UID GID TOOL - [NAME]" (the tool finds the groups) or
# "fail user" or "fail group".

entry() {
	while IFS=: read -r name password number rest || [ "$name" ]; do
		[ "$name" = "$2" ] && return
		[ "$number" = "$2" ] && return
	done <"$1"
	return 1
}

# By path: some builds of busybox run their own setpriv, which cannot switch users, before they look for another.
tool() {
	for name in setpriv su-exec gosu su; do
		for directory in /usr/local/bin /usr/local/sbin /usr/bin /bin /usr/sbin /sbin; do
			[ -x $directory/$name ] || continue
			case $name$($directory/$name --help 2>&1 </dev/null) in
			setpriv*--reuid* | [!s]* | su*) echo $directory/$name; return ;;
			esac
		done
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
	echo "user $uid $gid $(tool) - $login"
}
resolve
