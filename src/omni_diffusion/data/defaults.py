"""Defaults of the data commands, in one place for the library and the command line."""

from __future__ import annotations

# pretokenize, and drawing from shards
MAX_BAD_FRACTION = 0.01  # of the lines of a shard, or of the samples drawn so far
ENCODE_BATCH_SIZE = 8  # manifest lines whose pictures are encoded together
READERS = 4  # threads that read media

# check
MAX_RECORDING_SECONDS = (
    180.0  # of a recording; its frames fill the 3,072 tokens of the official model
)

# sdvi
VOICE_RETRIES = 2  # further voices for a question that the quality filter rejects
MAX_WER = 0.2  # word error rate of a recording against its text
MAX_SPOKEN_SECONDS = 60.0  # of a synthesized recording
SYNTHESIS_TIMEOUT = 120.0  # seconds that a command may take for one text
