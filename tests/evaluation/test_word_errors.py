"""Word errors against jiwer with Whisper's normalizer, on pairs that trip scorers."""

import pytest

from omni_diffusion.evaluation import speech

pytestmark = pytest.mark.skipif(
    bool(speech.missing(*speech.SCORING_PACKAGES)), reason="needs extra eval"
)
PAIRS = (
    ("The colour of the theatre", "the color of the theater"),
    ("Mr. Smith can't come", "mister smith cannot come"),
    ("I'm gonna go", "I am going to go"),
    ("twenty one dogs", "21 dogs"),
    ("two hundred and five", "205"),
    ("it costs $20 million", "it costs 20 million dollars"),
    ("the 1960s", "the nineteen sixties"),
    ("well-known man", "well known man"),
    ("um, the, uh, house", "the house"),
    ("he said [laughs] hello (coughs)", "he said hello"),
    ("Café naïve", "cafe naive"),
    ("a", "nothing was said"),
    ("first second third", "1st 2nd 3rd"),
    ("don't", "do not"),
    ("they've been there", "they have been there"),
    ("the THE the", "the"),
    ("a dog", "a dog a dog a dog"),
    ("Dr. Jones o'clock", "doctor jones o'clock"),
    ("percent 50 %", "percent fifty percent"),
    ("she's Prof. Lee's", "she is professor lee's"),
    ("plain words here", ""),
)


@pytest.mark.parametrize(("reference", "hypothesis"), PAIRS)
def test_counts_are_those_of_jiwer_with_whispers_normalizer(
    reference: str, hypothesis: str
) -> None:
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    normalize = EnglishTextNormalizer()
    found = speech.word_errors(reference, hypothesis)
    expected = jiwer.wer(normalize(reference), normalize(hypothesis))
    assert found.amount / found.of == pytest.approx(expected)
