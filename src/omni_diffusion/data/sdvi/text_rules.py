"""Which questions about pictures can be spoken, and how: the text rules of the paper's SDVI set.

Speech-driven visual interaction is made of LLaVA-OneVision: mathematics and programming are left
out, multiple choice becomes an open question, answers of more than 100 words are left out. Knows
words alone; what counts as mathematics or programming is our own reading, the paper does not say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MOST_WORDS = 100

MATHS = re.compile(
    r"\\(?:frac|sqrt|cdot|times|angle|triangle|left|sum|int|begin|mathrm|text)\b"  # LaTeX
    r"|\$[^$\n]*[\\^_=][^$\n]*\$"
    r"|\b[a-z]\s*[=<>≤≥]\s*-?\d|\d\s*[a-z]?\s*[+*×÷^]\s*\d*[a-z]?\s*=|\b[a-z]\s*\^\s*\d"  # formulas
    r"|[∠△√∫∑π°]\s*[A-Z\dx]"
    r"|\b(?:solve for|equations?|hypotenuse|perimeter|circumference|radius|polynomial|theorem|"
    r"derivative|integral|cosine|tangent|logarithm|parallelogram|quadrilateral|trapezoid|"
    r"(?:triangle|angle|segment) [A-Z]{2,3})\b",
    re.IGNORECASE,
)
CODE = re.compile(
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
MARK = re.compile(r"(?:^[ \t]*\(?([A-Z])[.):][ \t]+|(?<=\s)\(([A-Z])\)[ \t]*)", re.MULTILINE)
HEADING = re.compile(r"\s*\b(?:choices|options|answer choices)\s*:?\s*\Z", re.IGNORECASE)
INSTRUCTION = re.compile(
    r"^[^\n]*\b(?:answer|respond|reply|choose|select|pick|give)\b[^\n]*"
    r"\b(?:option|letter|choice|choices|options)\b[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
POINTS_AT_CHOICES = re.compile(
    r"\b(?:the following|of (?:these|those)|options?|choices?|listed below)\b",
    re.IGNORECASE,
)
LETTER = re.compile(
    r"(?:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?:?\s*)?"
    r"\(?([A-Z])\)?(?:[.):]\s*(.*))?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Pair:
    """A question that can be asked aloud, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Dropped:
    """Why a question is not for speech."""

    reason: str


def spoken(question: str, answer: str) -> Pair | Dropped:
    """What a written question and its answer become.

    The question is to hold no tag. Multiple choice is recognised by two or more options in the
    order of the alphabet; its answer, a letter, becomes the words of that option.
    """
    for what, pattern in (("mathematics", MATHS), ("programming", CODE)):
        if pattern.search(question) or pattern.search(answer):
            return Dropped(what)
    stem, options = choices(question)
    if options:
        if POINTS_AT_CHOICES.search(stem):
            return Dropped("the question points at its choices")
        chosen = _chosen(answer, options)
        if chosen is None:
            return Dropped("the answer is none of the choices")
        answer = chosen
    question, answer = stem.strip(), answer.strip()
    if not question or not answer:
        return Dropped("the question or the answer is empty")
    if len(answer.split()) > MOST_WORDS:
        return Dropped(f"the answer has more than {MOST_WORDS} words")
    return Pair(question, answer)


def choices(question: str) -> tuple[str, Mapping[str, str]]:
    """The question without its options, and the options by letter; none where it has no choice."""
    marks = list(MARK.finditer(question))
    letters = [mark[1] or mark[2] for mark in marks]
    if len(marks) < 2 or letters != [chr(ord("A") + i) for i in range(len(marks))]:
        return question, {}
    ends = [mark.start() for mark in marks[1:]]
    last = INSTRUCTION.search(question, marks[-1].end())
    ends.append(last.start() if last else len(question))
    options = {
        letter: question[mark.end() : end].strip().rstrip(",;").strip()
        for letter, mark, end in zip(letters, marks, ends, strict=True)
    }
    stem = INSTRUCTION.sub("", question[: marks[0].start()])
    return HEADING.sub("", stem).strip(), options


def _chosen(answer: str, options: Mapping[str, str]) -> str | None:
    """The words of the option that an answer names by letter or repeats; None without one."""
    answer = answer.strip()
    match = LETTER.fullmatch(answer)
    if match and match[1].upper() in options:
        return options[match[1].upper()]
    same = [text for text in options.values() if text.lower() == answer.rstrip(".").lower()]
    return same[0] if same else None
