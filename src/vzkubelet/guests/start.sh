# Starts a process under its supervisor, once per id, and prints its report. Expects: id, supervise (text), spec (text),
# stdin (1 or empty), owner (uid:gid or empty), elevated (1 when sudo starts it, or empty), dir (working directory or
# empty).

umask 077

locate() {
	for root in "$HOME/.vzkubelet" /var/run/vzkubelet; do
		[ -d "$root/$id" ] && return
	done
	for root in "$HOME/.vzkubelet" /var/run/vzkubelet; do
		mkdir -p "$root" 2>/dev/null && [ -w "$root" ] && return
	done
	echo "fail place"
	exit 0
}

running() {
	pid=
	[ -r "$1" ] && read -r pid <"$1"
	[ "$pid" ] && kill -0 "$pid" 2>/dev/null
}

# Whoever makes the directory launches. Others wait for the report; when neither a launcher nor a supervisor has been
# alive for three seconds, the launch was cut off half way and is taken over.
claim() {
	dead=0
	until mkdir "$place" 2>/dev/null; do
		if [ -s "$place/report" ]; then
			cat "$place/report"
			exit 0
		fi
		if running "$place/supervisor" || running "$place/launcher"; then
			dead=0
		else
			dead=$((dead + 1))
		fi
		if [ $dead -ge 30 ]; then
			dead=0
			mv "$place" "$place.$$" 2>/dev/null && rm -rf "$place.$$"
		fi
		sleep 0.1
	done
	echo $$ >"$place/launcher"
}

launch() {
	cd "$place" || exit 1
	printf '%s' "$spec" >spec
	printf '%s' "$supervise" >supervise
	: >stdout
	: >stderr
	: >report
	mkfifo out.p err.p alive ready
	[ "$stdin" ] && mkfifo in
	[ "$owner" ] && chown "$owner" out.p err.p
	[ "$elevated" ] && : >elevated
	exec 4<>ready
	if command -v setsid >/dev/null; then
		# The first makes a session, the second forks because a session's leader cannot make one.
		setsid setsid /bin/sh ./supervise </dev/null >/dev/null 2>&1 4<&-
	elif command -v perl >/dev/null; then
		perl -e 'use POSIX; fork && exit; POSIX::setsid(); exec @ARGV' /bin/sh ./supervise </dev/null >/dev/null 2>&1 4<&-
	else
		# With job control a background job gets its own process group and keeps its interrupt signals.
		set -m
		/bin/sh ./supervise </dev/null >/dev/null 2>&1 4<&- &
	fi
	read -r woken <&4
	cat report
}

start() {
	locate
	place=$root/$id
	claim
	if [ "$dir" ] && ! [ -e "$dir" ]; then
		(umask 022 && mkdir -p "$dir") 2>/dev/null
	fi
	launch
}
