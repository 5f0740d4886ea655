"""One stream or several ranges at a time: found out by trying, for neither is right everywhere.

Measured with Distribution's registry on two cores: a request costs it 3 to 4 ms of CPU whatever its length (it reads
4 MiB of the file for each), so 512 MiB in ranges of 1 MiB took 2.4 s where one stream took 0.5 s. Over the internet it
is the other way round: registries give 25 to 50 MB/s to a stream, and several times that to several of them.
"""

from enum import Enum, auto

ROUND_MIN_BYTES = 8 * 1024 * 1024
ROUND_MAX_BYTES = 256 * 1024 * 1024
_ROUND_S = 2.0
"""Long enough that the rate says something and that one request more does not count."""
_TRIAL_BYTES = 32 * 1024 * 1024
_STARVED_SHARE = 0.3
"""Of its time that the consumer waits for bytes; below that more connections bring nothing."""
_FAST_BYTES_PER_S = 150 * 1024 * 1024
"""Hardly a stream over the internet is that fast, and nothing near by is faster with several."""
_GAIN_OF_SEVERAL = 1.5
_GAIN_OF_ONE = 0.9
"""How much faster than the way so far another one must be to be kept. Several cost the registry more, which may be
this very machine, and where they pay they do so by far; a busy machine makes either look better at random."""
_ROUNDS_UNTIL_TRIAL = 8
_ROUNDS_UNTIL_TRIAL_MAX = 128
"""Doubled each time the way so far has won."""


class _Stage(Enum):
    STEADY = auto()
    WARMING = auto()
    """The other way, with connections that are still being made."""
    TRYING = auto()


class Pace:
    """Decides from round to round, for all blobs of a repository. Pure: `measured` is told what happened."""

    def __init__(self) -> None:
        self.is_several = False
        self.round_bytes = ROUND_MIN_BYTES
        self._stage = _Stage.STEADY
        self._rate_to_beat = 0.0
        self._rounds_until_trial = 0
        self._pause_rounds = _ROUNDS_UNTIL_TRIAL

    def measured(self, size_bytes: int, duration_s: float, waited_s: float, *, several: bool) -> None:
        """After a round of `size_bytes` in which the consumer waited `waited_s` of `duration_s` for bytes."""
        if several is not self.is_several:
            return  # of another blob's reader, begun before this one's led to a change
        if size_bytes < ROUND_MIN_BYTES:
            return  # a small blob, or the end of one: that is the time of a request, and no rate
        duration_s = max(duration_s, 1e-6)
        rate = size_bytes / duration_s
        self.round_bytes = int(min(max(rate * _ROUND_S, ROUND_MIN_BYTES), ROUND_MAX_BYTES))
        match self._stage:
            case _Stage.STEADY:
                self._rounds_until_trial -= 1
                starved = waited_s > duration_s * _STARVED_SHARE and rate < _FAST_BYTES_PER_S
                # The cheaper way is tried from time to time, the dearer one where there is something to win.
                if self._rounds_until_trial <= 0 and (starved or self.is_several):
                    self.is_several = not self.is_several
                    self._rate_to_beat = rate * (_GAIN_OF_SEVERAL if self.is_several else _GAIN_OF_ONE)
                    self._stage, self.round_bytes = _Stage.WARMING, ROUND_MIN_BYTES
            case _Stage.WARMING:
                self._stage, self.round_bytes = _Stage.TRYING, _TRIAL_BYTES
            case _Stage.TRYING:
                if rate < self._rate_to_beat:
                    self.is_several = not self.is_several
                    self._pause_rounds = min(2 * self._pause_rounds, _ROUNDS_UNTIL_TRIAL_MAX)
                else:
                    self._pause_rounds = _ROUNDS_UNTIL_TRIAL
                self._stage, self._rounds_until_trial = _Stage.STEADY, self._pause_rounds
