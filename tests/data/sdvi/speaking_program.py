"""A synthesizer of the standard library alone: each word is a tone of its own, 240 ms long.

As a command: `python speaking_program.py VOICE OUT [TEXT]`; without TEXT it reads its input. Some
words make it fail. The voice "mumbler" says other words than it is given, "mute" says silence.
"""

from __future__ import annotations

import array
import math
import subprocess
import sys
import time
import wave

WORDS = (
    "what is on the left right a boat dog red blue there how many are one two three it picture of"
).split()
RATE, LENGTH = 8000, 1920
STEP = 100  # hertz from word to word: whole periods in its 240 ms


def samples(text: str, voice: str) -> list[float]:
    found = [WORDS.index(word.strip("?.,!").lower()) for word in text.split()]
    if voice == "mumbler":
        found = [(at + 1) % len(WORDS) for at in found]
    loud = 0.0 if voice == "mute" else 0.5
    return [
        loud * math.sin(2 * math.pi * (at + 2) * STEP * i / RATE)
        for at in found
        for i in range(LENGTH)
    ]


def main() -> None:
    voice, out, *rest = sys.argv[1:]
    text = rest[0] if rest else sys.stdin.readline().rstrip("\n")
    if text == "nothing":
        return
    if text == "noise":
        with open(out, "wb") as file:
            file.write(b"no sound at all")
        return
    if text == "slow":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        time.sleep(60)
    try:
        values = samples(text, voice)
    except ValueError as error:
        sys.exit(f"cannot say {text!r}: {error}")
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(array.array("h", [round(v * 32767) for v in values]).tobytes())


if __name__ == "__main__":
    main()
