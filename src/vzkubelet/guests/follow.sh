# Copies what a supervised process writes to this session's stdout and stderr. Expects: id, out and err (bytes that the
# other side has already).
#
# The first line on stdout says what follows: "exit CODE STDOUT_BYTES STDERR_BYTES" or "lost STDOUT_BYTES STDERR_BYTES"
# (the supervisor was killed) and then everything that is missing; "live" and then output until the process has ended or
# the session's stdin is closed; "absent".
#
# A shell tells on its stderr about children that it killed: the session's stderr is descriptor 4, for output only.

rest() {
	tail -c "+$((out + 1))" stdout
	tail -c "+$((err + 1))" stderr >&4
}

# For a tail that is told about changes, or looks as often as it is asked to.
tails() {
	echo live
	tail $interval -c "+$((out + 1))" -f stdout 3<&- 5<&- &
	a=$!
	tail $interval -c "+$((err + 1))" -f stderr >&4 3<&- 5<&- &
	b=$!
	cat <&3 >/dev/null 4>&- 5<&- &
	peer=$!
	(
		read -r x <&5
		kill "$peer"
	) >/dev/null 3<&- 4>&- &
	end=$!
	wait "$peer"
	kill "$a" "$b" "$end"
}

# For a tail that looks once a second (busybox). Its shell is the clock (`read -t`) and tests for new output with a one
# byte `read`, both without a new process; the test has descriptors of its own, so what it reads is not lost.
ticks() {
	echo live
	(
		cat <&3
		kill $$
	) >/dev/null 4>&- &
	peer=$!
	exec 6<stdout 7<stderr 8<stdout 9<stderr
	for fd in 6 8; do eval "dd bs=1 skip=$out count=0 <&$fd"; done
	for fd in 7 9; do eval "dd bs=1 skip=$err count=0 <&$fd"; done
	while [ ! -e exit ] && kill -0 "$supervisor"; do
		if IFS= read -r -n 1 x <&8; then
			cat <&8 >/dev/null
			cat <&6
		fi
		if IFS= read -r -n 1 x <&9; then
			cat <&9 >/dev/null
			cat <&7 >&4
		fi
		IFS= read -r -t 0.2 x <&5
	done
	kill "$peer"
}

live() {
	# Opened for writing first, because opening for reading would wait for a supervisor that is gone.
	exec 3<&0 6<>alive 5<alive 6>&-
	interval='-s 0.2'
	if ! tail $interval -c 1 /dev/null >/dev/null; then
		interval=
		[ "$(uname)" != Darwin ] && (IFS= read -r -t 0.1 -n 1 x </dev/null; [ $? = 1 ]) && { ticks; return; }
	fi
	tails
}

follow() {
	exec 4>&2 2>/dev/null
	cd "$HOME/.vzkubelet/$id" || cd "/var/run/vzkubelet/$id" || { echo absent; return; }
	read -r supervisor <supervisor && kill -0 "$supervisor" && [ ! -e exit ] && { live; return; }
	if [ -e exit ]; then
		echo "exit $(cat exit)"
	else
		echo "lost $(($(wc -c <stdout))) $(($(wc -c <stderr)))"
	fi
	rest
}
