# Resolves a user and a group of a macOS guest through its directory services, for /etc/passwd knows only services.
# Expects: user, group (may be empty). Prints "user UID GID TOOL GROUPS [NAME]" (GROUPS: numbers joined by commas, at
# most the 16 that the kernel takes, or -) or "fail user" or "fail group". "sudo" instead of a tool's path: only through
# sudo, which asks for no password.

tool() {
	[ -x /usr/bin/perl ] || { echo none; return; }
	[ "$(id -u)" = 0 ] && { echo /usr/bin/perl; return; }
	sudo -n true 2>/dev/null && echo sudo || echo none
}

resolve() {
	groups=-
	if uid=$(id -u "$user" 2>/dev/null); then
		gid=$(id -g "$user") login=$(id -un "$user")
		groups=$(id -G "$user" | tr -s ' ' '\n' | head -n 16 | tr '\n' ,)
		groups=${groups%,}
	else
		case $user in
		*[!0-9]*) echo "fail user"; return ;;
		esac
		uid=$user gid=0 login=
	fi
	if [ "$group" ]; then
		groups=-
		number=$(dscl /Search -read "/Groups/$group" PrimaryGroupID 2>/dev/null)
		case $number in
		"PrimaryGroupID: "*) gid=${number#*: } ;;
		*)
			case $group in
			*[!0-9]*) echo "fail group"; return ;;
			esac
			gid=$group
			;;
		esac
	fi
	echo "user $uid $gid $(tool) $groups $login"
}
resolve
