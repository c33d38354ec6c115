"""Manifest rows and files for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What the published README shows for each task, its words shortened, one sample a line. The last
# two miss commas there, and one has a comma too many.
ASR = r"""{"messages": [{"content": "Convert the speech to text.\n<|audio|>", "role": "user"},
 {"content": "misery and horror", "role": "assistant"}], "audios": ["clean/4853.wav"]}"""
TTS = r"""{"messages": [{"content": "Convert the text to speech.\nThe King", "role": "user"},
 {"content": "<|audio|>", "role": "assistant"}], "audios": ["libritts/7178.wav"]}"""
T2I = r"""{"messages": [{"role": "user", "content":
 "Generate an image based on the provided text description.\nTwo girls"},
 {"content": "<|image|>", "role": "assistant"}], "images": ["00000001.jpg"]}"""
VQA = r"""{"messages": [{"content": "How many triangles are there?\nA. 3\nB. 2\n<|image|>",
 "role": "user"}, {"content": "A", "role": "assistant"}], "images": ["tqa(x,llava)/16.png"]}"""
S2I = r"""{"messages": [{"content": "Please generate an image based on the input audio.",
 "role": "system"} {"content": "<|audio|>", "role": "user"}, {"content": "<|image|>",
 "role": "assistant"}], "audios": ["1.wav"], "images": ["1.jpg"]}"""
SVQA = r"""{"messages": [{"content": "Please response the input audio based on the given image.",
 "role": "system"} {"content": "<|audio|>\n<|image|>", "role": "user"}, {"content":
 "He is angling himself.\n<|audio|>", "role": "assistant"}], "audios": ["8_q.wav", "8_a.wav",],
 "images": ["c6.png"]}"""
PUBLISHED = {
    name: sample.replace("\n", "")
    for name, sample in [
        *(("asr", ASR), ("tts", TTS), ("t2i", T2I), ("vqa", VQA), ("s2i", S2I), ("svqa", SVQA))
    ]
}
CORRECTED = {
    name: sample.replace("} {", "}, {").replace(",]", "]") for name, sample in PUBLISHED.items()
}


def row(*contents: str, **media: list[str]) -> dict[str, Any]:
    """A manifest row; user and assistant alternate."""
    roles = ("user", "assistant") * len(contents)
    messages = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]
    return {"messages": messages, **media}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    """Write a manifest of these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


ROWS = [
    row("Convert the speech to text.\n<|audio|>", "so we began", audios=["a.wav"]) | {"id": "talk"},
    row("Convert the text to speech.\na dog", "<|audio|>", audios=["b.wav"]),
    row("Generate an image based on the provided text description.\na dog", "<|image|>",
        images=["c.png"]),
    row("How many?\n<|image|>", "two", images=["c.png"]),
    row("look: <|image|>", "a dog", "and <|audio|>?", "this:\n<|audio|>\nor that\n<|image|>",
        images=["c.png", "c.png"], audios=["a.wav", "b.wav"]),
    row("hello", "hi"),
    row("bye", "bye"),
]  # fmt: skip
