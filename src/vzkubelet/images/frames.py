"""The zstd frames that chunks lie in, expanded to what they may be and no further."""

import zstandard

WINDOW_LIMIT_BYTES = 128 * 1024 * 1024
"""What zstd calls its own limit for decoders; a frame of a chunk never needs it."""


class DamagedFrame(ValueError):
    """Not a frame of a chunk of that size. Stays in this room: who reads the pack says which chunk it was."""


def decompressor() -> zstandard.ZstdDecompressor:
    """For one thread."""
    return zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT_BYTES)


def expanded(frame: bytes | memoryview, raw_bytes: int, codec: zstandard.ZstdDecompressor) -> bytes:
    """The chunk of `raw_bytes` bytes that a stored frame is; one of just that length is the chunk itself.

    Raises:
        DamagedFrame: it is neither. Nothing larger is ever expanded: the library believes a frame that says its size,
            and holds only those that do not to the limit it is given.
    """
    if len(frame) == raw_bytes:
        return bytes(frame)
    try:
        if zstandard.frame_content_size(frame) not in (raw_bytes, -1):
            raise DamagedFrame(f"does not expand to {raw_bytes} bytes")
        chunk = codec.decompress(frame, max_output_size=raw_bytes)
    except zstandard.ZstdError as exc:
        raise DamagedFrame(f"is no zstd frame of {raw_bytes} bytes ({exc})") from exc
    if len(chunk) != raw_bytes:
        raise DamagedFrame(f"expands to {len(chunk)} instead of {raw_bytes} bytes")
    return chunk
