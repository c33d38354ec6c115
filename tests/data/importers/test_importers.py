"""A few rows of every corpus, in its layout, become a manifest without mistakes."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import checkers, tone

from omni_diffusion.data import manifest
from omni_diffusion.data.importers import speech
from omni_diffusion.data.importers.catalog import IMPORTERS, importer
from omni_diffusion.data.importers.run import import_corpus
from omni_diffusion.data.validate import validate
from omni_diffusion.errors import DataError, MissingDependencyError, StorageError
from omni_diffusion.io import files

HEAR = "Convert the speech to text.\n<|audio|>"


def librispeech(folder: Path) -> None:
    chapter = folder / "train-clean-100" / "19" / "198"
    chapter.mkdir(parents=True)
    text = "19-198-0000 NORTHANGER ABBEY\n19-198-0001 IT'S A\n19-198-0002 LOST\n"
    (chapter / "19-198.trans.txt").write_text(text)
    for name in ("19-198-0000", "19-198-0001"):
        tone().write(chapter / f"{name}.flac")


def libritts(folder: Path) -> None:
    chapter = folder / "train-clean-100" / "103" / "1240"
    chapter.mkdir(parents=True)
    for name, text in (("103_0", "Chapter one."), ("103_1", "Mrs. Lynde!"), ("103_2", "Lost")):
        (chapter / f"{name}.normalized.txt").write_text(text)
        (chapter / f"{name}.original.txt").write_text("other")
        if text != "Lost":
            tone(rate=24_000).write(chapter / f"{name}.wav")


def common_voice(folder: Path) -> None:
    (folder / "clips").mkdir(parents=True)
    rows = ["client_id\tpath\tsentence\tup_votes", 'a\ten_1.wav\tHe said "no\t2']
    rows += ["b\ten_2.wav\tIt's late.\t3", "b\ten_3.wav\tLost\t3"]
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    (folder / "dev.tsv").write_text(rows[0] + "\n")
    for name in ("en_1", "en_2"):
        tone().write(folder / "clips" / f"{name}.wav")


def gigaspeech(folder: Path) -> None:
    (folder / "audio" / "podcast").mkdir(parents=True)
    tone(5.0).write(folder / "audio" / "podcast" / "POD1.flac")

    def segment(sid: str, start: float, text: str, subset: str = "{XL}") -> dict[str, Any]:
        return {"sid": sid, "begin_time": start, "end_time": start + 1.5, "text_tn": text} | {
            "subsets": [subset]
        }

    said = "AS THEY WERE <COMMA> IS IT <QUESTIONMARK>"
    segments = [segment("S0", 0.25, said), segment("S1", 2, "<MUSIC>"), segment("S2", 3, "SO")]
    segments.append(segment("S3", 1, "NO", "{DEV}"))
    audios = [
        {"aid": "POD1", "path": "audio/podcast/POD1.flac", "segments": segments},
        {"aid": "POD2", "path": "audio/podcast/POD2.flac", "segments": [segment("S4", 0, "LOST")]},
    ]
    whole = {"dataset": "GigaSpeech", "language": "EN", "audios": audios, "version": "1"}
    (folder / "GigaSpeech.json").write_text(json.dumps(whole, indent=2))


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)


def llava_onevision(folder: Path) -> None:
    def row(name: str, picture: bytes | None, *said: str) -> dict[str, Any]:
        roles = ("human", "gpt") * len(said)
        turns = [{"from": role, "value": value} for role, value in zip(roles, said, strict=False)]
        image = None if picture is None else {"bytes": picture, "path": f"{name}.png"}
        return {"id": name, "image": image, "conversations": turns, "data_source": "tqa"}

    png = checkers(32).png_bytes()
    rows = [
        row("one", png, "<image>\nHow many?\nA. 3\nB. 2", "A"),
        row("two", png, "What is it?\n<image>", "A dog.", "What color?", "Red."),
        row("words", None, "Is 2 even?", "Yes."),
        row("broken", b"nothing", "<image>\nWhat?", "A cat."),
        row("unanswered", png, "<image>\nWhat?"),
        row("many", png, "<image>\n<image>\nWhat?", "Two."),
        {"id": "none", "image": None, "conversations": None, "data_source": "tqa"},
    ]
    table(folder / "tqa(cauldron,llava_format)" / "train-00000-of-00002.parquet", rows[:2])
    table(folder / "tqa(cauldron,llava_format)" / "train-00001-of-00002.parquet", rows[2:])


def blip3o(folder: Path) -> None:
    folder.mkdir(parents=True)
    jpg = io.BytesIO()
    checkers(32).to_pil().save(jpg, "JPEG")
    members = {
        "00000.jpg": jpg.getvalue(),
        "00000.txt": b"a tower at dusk\n",
        "00001.txt": "zwei Türme".encode(),
        "00001.jpg": checkers(20).png_bytes(),
        "00002.jpg": jpg.getvalue(),
        "00003.jpg": b"nothing",
        "00003.txt": b"lost",
        "00004.jpg": jpg.getvalue(),
        "00004.txt": b"\xff",
    }
    with tarfile.open(folder / "JourneyDB_000.tar", "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def tulu(folder: Path) -> None:
    def row(name: str, *contents: str) -> dict[str, Any]:
        roles = ("system", "user", "assistant")[-len(contents) :]
        pairs = zip(roles, contents, strict=True)
        return {"id": name, "source": "ai2", "messages": [
            {"role": role, "content": content} for role, content in pairs
        ]}  # fmt: skip

    rows = [row("a", "Say hi.", "hi"), row("b", "Be brief.", "Why?", "So.")]
    rows += [row("c", "Say nothing.", ""), row("d", "What is <|image|>?", "A tag.")]
    table(folder / "data" / "train-00000-of-00001.parquet", rows)


def voice_assistant(folder: Path) -> None:
    def row(sound: bytes, answer: str) -> dict[str, Any]:
        return {"question": "q", "question_audio": {"bytes": sound, "path": None}} | {
            "answer": answer, "answer_snac": "1 # 2", "index": "0",
        }  # fmt: skip

    rows = [row(tone().wav_bytes(), "Paris."), row(tone(0.7).wav_bytes(), "Rome.")]
    table(folder / "data" / "train-00000-of-00325.parquet", [*rows, row(b"", "Lost.")])


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "librispeech": librispeech,
    "libritts": libritts,
    "common-voice": common_voice,
    "gigaspeech": gigaspeech,
    "llava-onevision": llava_onevision,
    "blip3o": blip3o,
    "tulu-3": tulu,
    "voiceassistant": voice_assistant,
}
EXPECTED = {  # the messages of each first sample, the tasks, and what is said of skipped rows
    "librispeech": ([HEAR, "northanger abbey"], {"asr": 2}, ["19-198-0002: it has no recording"]),
    "libritts": (
        ["Convert the text to speech.\nChapter one.", "<|audio|>"],
        {"tts": 2},
        ["103_2: it has no recording"],
    ),
    "common-voice": ([HEAR, 'He said "no'], {"asr": 2}, ["en_3: it has no recording"]),
    "gigaspeech": (
        [HEAR, "as they were, is it?"],
        {"asr": 2},
        ["S1: it is <MUSIC>, not speech", "S4: it has no recording .*POD2.flac"],
    ),
    "llava-onevision": (
        ["How many?\nA. 3\nB. 2\n<|image|>", "A"],
        {"vqa": 1, "chat": 2},
        [
            "row 1: the format of its picture is unknown",
            "unanswered: the roles are user; alternate",
            "row 3: it has several pictures",
            "none: 'messages' is empty",
        ],
    ),
    "blip3o": (
        ["Generate an image based on the provided text description.\na tower at dusk", "<|image|>"],
        {"t2i": 2},
        [
            "00002: it has jpg, not a picture with a txt",
            "00003: the format of its picture is unknown",
            "00004: its text is not UTF-8",
        ],
    ),
    "tulu-3": (
        ["Say hi.", "hi"],
        {"chat": 2},
        [r"c: message 2 \(assistant\) is empty", r"d: the messages hold <\|image\|> 1 times"],
    ),
    "voiceassistant": (
        ["<|audio|>", "Paris."],
        {"chat": 2},
        ["row 2: the audio format of its question is unknown"],
    ),
}


def test_every_importer_is_tested_here() -> None:
    assert set(LAYOUTS) == set(EXPECTED) == set(IMPORTERS)


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_corpus_becomes_a_manifest_without_mistakes(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path / "corpus")
    fractions: list[float] = []
    out = tmp_path / "out"
    record = import_corpus(importer(name), tmp_path / "corpus", out, None, fractions.append)
    said, tasks, skipped = EXPECTED[name]
    first = next(manifest.read_samples(out / "manifest.jsonl"))
    assert [message.content for message in first.messages] == said
    report = validate(out / "manifest.jsonl", decode=True)
    assert report.problems == []
    assert dict(report.tasks) == tasks
    assert (record.samples, record.skipped) == (sum(tasks.values()), len(skipped))
    reported = (out / "skipped.txt").read_text().splitlines()
    assert len(reported) == len(skipped)
    for line, reason in zip(reported, skipped, strict=True):
        assert re.search(": " + reason, line), line
    assert fractions[-1] == 1
    assert not (out / "parts").exists()


def test_recordings_are_referenced_and_pictures_extracted(tmp_path: Path) -> None:
    librispeech(tmp_path / "corpus")
    blip3o(tmp_path / "tars")
    import_corpus(importer("librispeech"), tmp_path / "corpus", tmp_path / "referenced")
    (row, _) = (tmp_path / "referenced" / "manifest.jsonl").read_text().splitlines()
    sound = "../corpus/train-clean-100/19/198/19-198-0000.flac"
    assert json.loads(row)["audios"] == [sound]
    import_corpus(importer("blip3o"), tmp_path / "tars", tmp_path / "extracted")
    pictures = sorted(path.name for path in (tmp_path / "extracted" / "media").rglob("*.*"))
    assert pictures == ["000000.jpg", "000001.png"]  # by what they are, not by their names


def test_sections_are_referenced_and_a_split_is_selected(tmp_path: Path) -> None:
    gigaspeech(tmp_path / "corpus")
    import_corpus(importer("gigaspeech"), tmp_path / "corpus", tmp_path / "dev", "DEV")
    (sample,) = manifest.read_samples(tmp_path / "dev" / "manifest.jsonl")
    assert (sample.name, sample.media[0].section) == ("S3", (1.0, 2.5))
    assert sample.messages[-1].content == "no"
    common_voice(tmp_path / "voices")
    import_corpus(importer("common-voice"), tmp_path / "voices", tmp_path / "none", "dev")
    assert list(manifest.read_samples(tmp_path / "none" / "manifest.jsonl")) == []


@pytest.mark.parametrize("chunk", [7, 40, 500])
def test_a_large_json_is_read_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    gigaspeech(tmp_path / "corpus")
    monkeypatch.setattr(speech, "JSON_CHUNK", chunk)
    assert import_corpus(importer("gigaspeech"), tmp_path / "corpus", tmp_path / "out").samples == 2


def test_an_interrupted_import_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for chapter in ("198", "200", "300"):
        folder = tmp_path / "corpus" / "19" / chapter
        folder.mkdir(parents=True)
        (folder / f"19-{chapter}.trans.txt").write_text(f"19-{chapter}-0000 WORDS\n")
        tone().write(folder / f"19-{chapter}-0000.flac")
    whole = import_corpus(importer("librispeech"), tmp_path / "corpus", tmp_path / "whole")
    read_files: list[str] = []
    read = speech._lines

    def failing(path: Path) -> Iterator[str]:
        read_files.append(path.name)
        if len(read_files) == 2:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(speech, "_lines", failing)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        import_corpus(importer("librispeech"), tmp_path / "corpus", out)
    assert not (out / "manifest.jsonl").exists()
    assert len(list((out / "parts").glob("*.jsonl"))) == 1
    record = import_corpus(importer("librispeech"), tmp_path / "corpus", out)
    assert read_files == [
        "19-198.trans.txt",
        "19-200.trans.txt",
        "19-200.trans.txt",
        "19-300.trans.txt",
    ]
    assert record == whole
    lines = [(out / "manifest.jsonl").read_text(), (tmp_path / "whole/manifest.jsonl").read_text()]
    assert lines[0] == lines[1]
    import_corpus(importer("librispeech"), tmp_path / "corpus", out)
    assert len(read_files) == 4  # what is complete is left alone


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("librispeech", r"no \*\.trans\.txt below .*empty"),
        ("common-voice", r"no train\.tsv in .*empty; give the folder of one language"),
        ("gigaspeech", r"no GigaSpeech\.json below"),
        ("tulu-3", r"no \*\.parquet below"),
        ("tulu", "no corpus is called 'tulu'; did you mean tulu-3"),
    ],
)
def test_a_folder_of_another_layout(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        import_corpus(importer(name), tmp_path / "empty", tmp_path / "out")


def test_truncated_files_are_errors(tmp_path: Path) -> None:
    gigaspeech(tmp_path / "corpus")
    whole = (tmp_path / "corpus" / "GigaSpeech.json").read_text()
    for length, message in ((len(whole) - 80, "is truncated"), (20, "has no list of audios")):
        (tmp_path / "corpus" / "GigaSpeech.json").write_text(whole[:length])
        with pytest.raises(DataError, match=message):
            import_corpus(importer("gigaspeech"), tmp_path / "corpus", tmp_path / "out")
    (tmp_path / "corpus" / "GigaSpeech.json").write_text('{"audios": [{"aid": 1}]}')
    with pytest.raises(DataError, match=r"has unexpected entries .'path'.; give GigaSpeech"):
        import_corpus(importer("gigaspeech"), tmp_path / "corpus", tmp_path / "out")
    blip3o(tmp_path / "tars")
    tar = tmp_path / "tars" / "JourneyDB_000.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(DataError, match=r"cannot read .*JourneyDB_000\.tar"):
        import_corpus(importer("blip3o"), tmp_path / "tars", tmp_path / "extracted")
    (tmp_path / "corpus" / "train.tsv").write_text("a\tb\n")
    with pytest.raises(DataError, match="lacks the columns path and sentence"):
        import_corpus(importer("common-voice"), tmp_path / "corpus", tmp_path / "voices")


def test_parquet_of_another_corpus_and_broken_parquet(tmp_path: Path) -> None:
    tulu(tmp_path / "corpus")
    with pytest.raises(DataError, match="lacks the columns question_audio, answer"):
        import_corpus(importer("voiceassistant"), tmp_path / "corpus", tmp_path / "out")
    (tmp_path / "corpus" / "data" / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cannot read .*broken\.parquet"):
        import_corpus(importer("tulu-3"), tmp_path / "corpus", tmp_path / "again")


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(MissingDependencyError, match=r"pip install 'omni-diffusion\[data\]'"):
        import_corpus(importer("tulu-3"), tmp_path, tmp_path / "out")


def test_a_folder_with_other_contents_is_refused(tmp_path: Path) -> None:
    librispeech(tmp_path / "corpus")
    import_corpus(importer("librispeech"), tmp_path / "corpus", tmp_path / "out")
    with pytest.raises(DataError, match=r"holds librispeech from .*; give another folder"):
        import_corpus(importer("libritts"), tmp_path / "corpus", tmp_path / "out")
    with pytest.raises(DataError, match="holds other files; give an empty folder"):
        import_corpus(importer("librispeech"), tmp_path / "corpus", tmp_path / "corpus")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot create"):
        import_corpus(importer("librispeech"), tmp_path / "corpus", tmp_path / "file" / "out")


def imported(name: str, tmp_path: Path) -> tuple[dict[str | None, str], str]:
    """The words of each sample by its id, and the skipped rows, of the corpus in tmp_path/corpus.

    The words are the answer, or for an answer without words what the template adds to.
    """
    out = tmp_path / "out"
    import_corpus(importer(name), tmp_path / "corpus", out)
    words = {}
    for sample in manifest.read_samples(out / "manifest.jsonl"):
        question, answer = (message.content for message in sample.messages)
        words[sample.name] = question.partition("\n")[2] if answer.startswith("<|") else answer
    return words, (out / "skipped.txt").read_text(encoding="utf-8")


SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"  # str.splitlines cuts at all of them


def test_only_line_feeds_end_the_lines_of_transcripts(tmp_path: Path) -> None:
    chapter = tmp_path / "corpus" / "1" / "2"
    chapter.mkdir(parents=True)
    expected, text = {}, "\ufeff"
    for number, separator in enumerate(SEPARATORS):
        name = f"1-2-{number:04}"
        tone().write(chapter / f"{name}.flac")
        text += f"{name} BON{separator}JOUR\r\n\r\n"  # and blank lines are no rows
        expected[name] = f"bon{separator}jour"
    (chapter / "1-2.trans.txt").write_bytes(text.encode())
    assert imported("librispeech", tmp_path) == (expected, "")


def test_tables_of_common_voice_keep_their_words(tmp_path: Path) -> None:
    clips = tmp_path / "corpus" / "clips"
    clips.mkdir(parents=True)
    tone().write(clips / "a.wav")
    sentences = {  # as they are written, and as they were read
        '"""Good-bye,"" said the boy."': '"Good-bye," said the boy.',
        '"Es hei\u00dft ""teile und herrsche""."': 'Es hei\u00dft "teile und herrsche".',
        'He said "no': 'He said "no',
        '"Hi" and "bye"': '"Hi" and "bye"',
        '"Probier\'s mal!"': '"Probier\'s mal!"',
        f"one{SEPARATORS[0]}two{SEPARATORS[2]}three\rfour": f"one{SEPARATORS[0]}two\x85three\rfour",
        "long " * 40_000 + "end": "long " * 40_000 + "end",
    }
    rows = [f"a.wav\t{sentence}\t1" for sentence in sentences]
    rows += ["x" * 200_000 + ".wav\tlost\t1", "a.wav", "a.wav\t\u3000\u200b\t1"]
    table = "\ufeff" + "\r\n".join(["path\tsentence\tup_votes", *rows]) + "\r\n"
    (tmp_path / "corpus" / "train.tsv").write_bytes(table.encode())
    out = tmp_path / "out"
    record = import_corpus(importer("common-voice"), tmp_path / "corpus", out)
    samples = list(manifest.read_samples(out / "manifest.jsonl"))
    assert [sample.messages[-1].content for sample in samples] == list(sentences.values())
    assert record.skipped == 3


def test_captions_and_texts_of_blanks_are_no_samples(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        texts = (b"", b" \n\t", "\u3000\u200b\ufeff".encode(), "\ufeffa dog\r\n".encode())
        for number, text in enumerate(texts):
            for suffix, data in (("png", checkers(20).png_bytes()), ("txt", text)):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    words, skipped = imported("blip3o", tmp_path)
    assert words == {"3": "a dog"}
    assert skipped.count("its text is empty") == 3


def test_normalized_texts_of_blanks_are_no_samples(tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "1"
    folder.mkdir(parents=True)
    for name, text in (("a", "\ufeffMrs. Lynde!\r\n"), ("b", "\ufeff\n"), ("c", " \u200b")):
        (folder / f"{name}.normalized.txt").write_bytes(text.encode())
        tone().write(folder / f"{name}.wav")
    words, skipped = imported("libritts", tmp_path)
    assert words == {"a": "Mrs. Lynde!"}
    assert skipped.count("its text is empty") == 2


def test_huge_numbers_of_gigaspeech_skip_their_row(tmp_path: Path) -> None:
    gigaspeech(tmp_path / "corpus")
    path = tmp_path / "corpus" / "GigaSpeech.json"
    whole = path.read_text()
    for number in ("9" * 400, "1e999", "-1e300"):
        path.write_text("\ufeff" + whole.replace('"end_time": 4.5', f'"end_time": {number}'))
        out = tmp_path / f"out{len(number)}"
        assert import_corpus(importer("gigaspeech"), tmp_path / "corpus", out).samples == 1
        assert "S2: audios[0] goes from" in (out / "skipped.txt").read_text()
    path.write_text(whole.replace('"end_time": 4.5', f'"end_time": {"9" * 5000}'))
    with pytest.raises(DataError, match="a number that cannot be read"):
        import_corpus(importer("gigaspeech"), tmp_path / "corpus", tmp_path / "out5000")


def test_two_imports_do_not_share_a_folder(tmp_path: Path) -> None:
    librispeech(tmp_path / "corpus")
    out = tmp_path / "out"
    with files.exclusive(out), pytest.raises(StorageError, match="out is in use by another"):
        import_corpus(importer("librispeech"), tmp_path / "corpus", out)
    assert import_corpus(importer("librispeech"), tmp_path / "corpus", out).samples == 2
