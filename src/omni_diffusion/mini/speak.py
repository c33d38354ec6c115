"""Record the sentences about scenes with Kokoro (`make voices`).

Can be resumed: sentences that have a file, or are in a bank given with --spoken, are skipped. The
synthesizer and its phonemizer are installed in an environment of their own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import track

from omni_diffusion.mini import speech_plan
from omni_diffusion.mini.kokoro import Kokoro
from omni_diffusion.mini.recordings import Bank, restore


def main() -> None:
    """Write bank/plan.jsonl once, then bank/audio/NNNNN.flac for every line of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Kokoro-82M as an ONNX file")
    parser.add_argument("--voices", type=Path, required=True, help="folder of voice packs (.bin)")
    parser.add_argument("--vocabulary", type=Path, required=True, help="phoneme ids (vocab.json)")
    parser.add_argument("--bank", type=Path, required=True, help="folder to fill")
    parser.add_argument(
        "--spoken", type=Path, nargs="*", default=[], help="banks whose recordings are copied"
    )
    given = parser.parse_args()
    plan = given.bank / "plan.jsonl"
    if not plan.exists():
        given.bank.mkdir(parents=True, exist_ok=True)
        speech_plan.save_plan(speech_plan.plan(), plan)
    lines = speech_plan.load_plan(plan)
    for folder in given.spoken:
        print(f"{restore(Bank.open(folder), lines, given.bank / 'audio')} lines from {folder}")
    kokoro = Kokoro(given.model, given.voices, given.vocabulary)
    spoken = speech_plan.speak(lines, given.bank / "audio", kokoro)
    for _ in track(spoken, total=len(lines), description="speaking"):
        pass


if __name__ == "__main__":
    main()
