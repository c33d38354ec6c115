"""The text rules of the paper's SDVI set: which questions about pictures can be spoken, and how.

The paper makes speech-driven visual interaction from LLaVA-OneVision: it drops mathematics,
programming and answers of more than 100 words, and turns multiple choice into open questions. It
does not define mathematics and programming; the patterns below are our reading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_WORDS = 100

MATHEMATICS = re.compile(
    r"\\(?:frac|sqrt|cdot|times|angle|triangle|left|sum|int|begin|mathrm|text)\b"  # LaTeX
    r"|\$[^$\n]*[\\^_=][^$\n]*\$"
    r"|\b[a-z]\s*[=<>≤≥]\s*-?\d|\d\s*[a-z]?\s*[+*×÷^]\s*\d*[a-z]?\s*=|\b[a-z]\s*\^\s*\d"  # formulas
    r"|[∠△√∫∑π°]\s*[A-Z\dx]"
    r"|\b(?:solve for|equations?|hypotenuse|perimeter|circumference|radius|polynomial|theorem|"
    r"derivative|integral|cosine|tangent|logarithm|parallelogram|quadrilateral|trapezoid|"
    r"(?:triangle|angle|segment) [A-Z]{2,3})\b",
    re.IGNORECASE,
)
PROGRAMMING = re.compile(
    r"```"
    r"|^\s*(?:def \w+\(|class \w+[(:]|import \w+$|from \w+ import |#include\b|public static )"
    r"|\b(?:print|console\.log|printf|println)\("
    r"|</?(?:html|body|div|span|script|style|head|table|p|svg)\b[^>]*>"
    r"|\bselect\b[^.?]*\bfrom\b[^.?]*\bwhere\b"
    r"|\b(?:python|javascript|c\+\+|html|css|sql|latex) (?:code|program|script|function|snippet)\b"
    r"|\b(?:source code|pseudocode)\b",
    re.IGNORECASE | re.MULTILINE,
)
# "A. red", "(A) red", "A) red", "A: red": at the start of a line, in brackets anywhere.
OPTION_MARK = re.compile(r"(?:^[ \t]*\(?([A-Z])[.):][ \t]+|(?<=\s)\(([A-Z])\)[ \t]*)", re.MULTILINE)
OPTIONS_HEADING = re.compile(r"\s*\b(?:choices|options|answer choices)\s*:?\s*\Z", re.IGNORECASE)
CHOICE_INSTRUCTION = re.compile(
    r"^[^\n]*\b(?:answer|respond|reply|choose|select|pick|give)\b[^\n]*"
    r"\b(?:option|letter|choice|choices|options)\b[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
REFERS_TO_OPTIONS = re.compile(
    r"\b(?:the following|of (?:these|those)|options?|choices?|listed below)\b",
    re.IGNORECASE,
)
OPTION_LETTER = re.compile(
    r"(?:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?:?\s*)?"
    r"\(?([A-Z])\)?(?:[.):]\s*(.*))?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class SpeakablePair:
    """A question that can be asked aloud, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Unspeakable:
    """Why a question cannot be asked aloud."""

    reason: str


def speakable(question: str, answer: str) -> SpeakablePair | Unspeakable:
    """Rewrite a written question and its answer for speech.

    question: without tags. Two or more options in alphabetical order make it multiple choice: the
    options are removed, and the answer, a letter, is replaced by the text of its option.
    """
    for subject, pattern in (("mathematics", MATHEMATICS), ("programming", PROGRAMMING)):
        if pattern.search(question) or pattern.search(answer):
            return Unspeakable(subject)
    stem, options = split_options(question)
    if options:
        if REFERS_TO_OPTIONS.search(stem):
            return Unspeakable("the question points at its choices")
        chosen = _chosen(answer, options)
        if chosen is None:
            return Unspeakable("the answer is none of the choices")
        answer = chosen
    question, answer = stem.strip(), answer.strip()
    if not question or not answer:
        return Unspeakable("the question or the answer is empty")
    if len(answer.split()) > MAX_WORDS:
        return Unspeakable(f"the answer has more than {MAX_WORDS} words")
    return SpeakablePair(question, answer)


def split_options(question: str) -> tuple[str, Mapping[str, str]]:
    """The question without its options, and the options by letter; empty if it has none."""
    marks = list(OPTION_MARK.finditer(question))
    letters = [mark[1] or mark[2] for mark in marks]
    if len(marks) < 2 or letters != [chr(ord("A") + i) for i in range(len(marks))]:
        return question, {}
    ends = [mark.start() for mark in marks[1:]]
    last = CHOICE_INSTRUCTION.search(question, marks[-1].end())
    ends.append(last.start() if last else len(question))
    options = {
        letter: question[mark.end() : end].strip().rstrip(",;").strip()
        for letter, mark, end in zip(letters, marks, ends, strict=True)
    }
    stem = CHOICE_INSTRUCTION.sub("", question[: marks[0].start()])
    return OPTIONS_HEADING.sub("", stem).strip(), options


def _chosen(answer: str, options: Mapping[str, str]) -> str | None:
    """The text of the option that an answer names by letter or repeats; None if it does neither."""
    answer = answer.strip()
    match = OPTION_LETTER.fullmatch(answer)
    if match and match[1].upper() in options:
        return options[match[1].upper()]
    same = [text for text in options.values() if text.lower() == answer.rstrip(".").lower()]
    return same[0] if same else None
