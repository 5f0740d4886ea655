#!/bin/sh
# Runs one process and keeps what it wrote and how it ended. It is started in the process's own directory in a session
# of its own, so neither the end of the SSH connection nor that of the agent reaches it.
#
# Files: spec (script that becomes the process; removed at once), out.p err.p in (pipes of the process), stdout stderr
# (what it wrote so far), report ("run PID" or "fail KIND"), exit ("CODE STDOUT_BYTES STDERR_BYTES"), alive (a pipe
# that this shell holds open for writing: end of file there means this shell is gone), ready (wakes the starter).
#
# The process writes into pipes and not into the files themselves, so that opening /dev/stdout again neither fails nor
# truncates what is kept. Output stays until the machine is discarded; rotation would replace the two `cat`.

umask 077
trap '' HUP INT QUIT TERM
exec </dev/null >/dev/null 2>&1
exec 9<>alive
echo $$ >supervisor
cat <out.p >>stdout 9>&- &
out=$!
cat <err.p >>stderr 9>&- &
err=$!
exec 7>out.p 8>err.p 3>report 4<>ready
if [ -p in ]; then
	exec 5<>in 6<in
else
	exec 6</dev/null
fi

(
	trap - HUP INT QUIT TERM
	exec 5>&- 9>&- <spec 2>launch.err
	rm -f spec
	set -- @COMMAND@
	# A process group of its own, so that signals reach the process and its children and nobody else (macOS: perl).
	if command -v setsid >/dev/null; then
		exec setsid "$@"
	elif command -v perl >/dev/null; then
		exec perl -e 'setpgrp(0, 0); exec @ARGV' "$@"
	fi
	exec "$@"
)
code=$?

exec 3>&- 5>&- 6<&- 7>&- 8>&-
[ -s report ] || echo "fail launch $(cat launch.err)" >report
echo >&4

# What the process wrote is in the pipes or in the files. Children that it left behind may hold the pipes open for
# ever, so the wait for their end is bounded.
late=
trap 'late=1' ALRM
(
	exec 9>&-
	sleep 2
	kill -ALRM $$
) &
watchdog=$!
wait "$out"
[ "$late" ] || wait "$err"
kill "$watchdog"

echo "$code $(($(wc -c <stdout))) $(($(wc -c <stderr)))" >exit.new
mv exit.new exit
