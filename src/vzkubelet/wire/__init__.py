"""Codecs and protocols without IO: bytes in, events out, bytes to send out.

Every protocol here has the same shape: `receive_data` and `receive_eof` take what the peer sent, `events` hands out
what it meant, methods named after what they send queue an answer, `data_to_send` hands out the bytes. Nothing here
waits, reads a clock or logs; limits against a hostile peer are constants beside the code that enforces them.

`streams` is the event model that multiplexed connections share. `spdy` and `channels` (WebSocket v5) speak it; the
four legacy WebSocket protocols and SPDY tunnelled in messages will be further connections of the same model, so that
`remote_command`, and port forwarding after it, run on any of them.
"""
