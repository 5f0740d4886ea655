"""Pure pod rules: what a kubelet decides, without doing any of it.

`record` is what is known of a pod, `events` change it, `decision` says what to do next, `status` is what the API server
is told. No clock, no randomness, no IO: time is an argument (seconds since the epoch).
"""
