"""The list of a model's files: all that opening reads, and what is wrong with them."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from tests.published_folders import PublishedFolders

from omni_diffusion.io import weights
from omni_diffusion.models.files import ModelFile, list_files
from omni_diffusion.models.omni import SMALL_MODEL, convert
from omni_diffusion.models.upstream import CodecSources


def by_name(folder: Path, sources: CodecSources | None = None) -> dict[str, ModelFile]:
    return {entry.name: entry for entry in list_files(folder, sources)}


def missing(folder: Path, sources: CodecSources | None = None) -> list[str]:
    return [entry.name for entry in list_files(folder, sources) if entry.bytes is None]


def test_the_shipped_folder_is_whole_and_nothing_of_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "read_tensors", lambda path: pytest.fail("read"))
    found = by_name(SMALL_MODEL)
    assert missing(SMALL_MODEL) == []
    listed = {SMALL_MODEL / name for name in found}
    assert listed == {path for path in SMALL_MODEL.rglob("*") if path.is_file()} - {
        path for path in SMALL_MODEL.rglob("*") if path.suffix in (".md", ".ogg", ".jsonl")
    }


def test_what_our_own_folder_lacks(made: PublishedFolders, tmp_path: Path) -> None:
    convert(made.omni, tmp_path / "out", codec_sources=made.sources)
    assert missing(tmp_path / "out") == []
    lost = ("am.mvn", "speech/tokenizer.safetensors", "speech/vocoder.safetensors")
    for name in lost:
        (tmp_path / "out" / name).unlink()
    assert missing(tmp_path / "out") == [*lost]
    assert "SenseVoiceSmall" in by_name(tmp_path / "out")["am.mvn"].note
    (tmp_path / "empty").mkdir()
    names = ["config.json", "generation_config.json", "model.safetensors"]
    assert missing(tmp_path / "empty")[:3] == names


def test_a_published_set_is_listed_with_its_numbers(made: PublishedFolders) -> None:
    for folder in (made.omni, made.dream):
        assert missing(folder, made.sources) == []
    found = by_name(made.omni, made.sources)
    stored = weights.read_tensors(made.omni)
    assert found["backbone"].bytes == sum(tensor.nbytes for tensor in stored.values())
    assert found["backbone"].note == f"{len(stored)} tensors of bfloat16"
    assert "speech encoder: model.pt" not in found
    assert "speech encoder: model.pt" in by_name(made.dream, made.sources)


def test_each_lost_file_is_named_with_the_way_to_get_it(own: PublishedFolders) -> None:
    shards = sorted(own.omni.glob("model-*.safetensors"))[:2]
    files = (*shards, own.omni / "merges.txt", own.omni / "added_tokens.json")
    for path in (*files, own.root / "sensevoice/am.mvn", own.root / "decoder/hift.pt"):
        path.unlink()
    found = by_name(own.omni, own.sources)
    assert [name for name, entry in found.items() if entry.bytes is None] == [
        "merges.txt",
        "added_tokens.json",
        *(f"backbone: {path.name}" for path in shards),
        "speech decoder: hift.pt",
        "speech encoder: am.mvn",
    ]
    assert found[f"backbone: {shards[0].name}"].note == f"missing: download it into {own.omni}"
    assert found["speech encoder: am.mvn"].note.endswith("for speech_encoder")


def test_a_part_that_is_nowhere(made: PublishedFolders, tmp_path: Path) -> None:
    place = tmp_path / "none"
    entry = by_name(made.omni, replace(made.sources, image_codec=place))["image codec"]
    assert f"nothing at {place}" in entry.note
    assert "image_codec" in entry.note


def test_a_truncated_file_is_not_listed_as_there(own: PublishedFolders) -> None:
    path = own.root / "tokenizer/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    entry = by_name(own.omni, own.sources)["speech tokenizer"]
    assert entry.bytes is None
    assert "is truncated or corrupt" in entry.note


def test_parts_of_the_hub_are_found_where_they_were_fetched_before(
    made: PublishedFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(name: str, *, local_files_only: bool, **options: object) -> str:
        assert local_files_only, "nothing is fetched"
        if name.startswith("THUDM"):
            raise OSError("not here")
        return str(made.root / ("sensevoice" if name.endswith("Small") else "magvitv2"))

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    found = by_name(made.omni)
    assert found["image codec"].bytes
    entry = found["speech decoder: flow.pt"]
    assert entry.note.startswith("missing: ")
    assert "THUDM/glm-4-voice-decoder" in entry.note
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert by_name(made.omni)["image codec"].bytes is None
