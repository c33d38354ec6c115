"""What is listed of a model's files: all that opening reads, and what is wrong with them."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from tests.published_folders import Files

from omni_diffusion.io import weights
from omni_diffusion.models import files
from omni_diffusion.models.files import Entry
from omni_diffusion.models.omni import SHIPPED, convert
from omni_diffusion.models.upstream import Parts


def by_name(folder: Path, parts: Parts | None = None) -> dict[str, Entry]:
    return {entry.name: entry for entry in files.entries(folder, parts)}


def missing(folder: Path, parts: Parts | None = None) -> list[str]:
    return [entry.name for entry in files.entries(folder, parts) if entry.bytes is None]


def test_the_shipped_folder_is_whole_and_nothing_of_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "read", lambda path: pytest.fail("read"))
    found = by_name(SHIPPED)
    assert missing(SHIPPED) == []
    listed = {SHIPPED / name for name in found}
    assert listed == {path for path in SHIPPED.rglob("*") if path.is_file()} - {
        path for path in SHIPPED.rglob("*") if path.suffix in (".md", ".ogg", ".jsonl")
    }


def test_what_our_own_folder_lacks(made: Files, tmp_path: Path) -> None:
    convert(made.omni, tmp_path / "out", parts=made.parts)
    assert missing(tmp_path / "out") == []
    lost = ("am.mvn", "speech/tokenizer.safetensors", "speech/vocoder.safetensors")
    for name in lost:
        (tmp_path / "out" / name).unlink()
    assert missing(tmp_path / "out") == [*lost]
    assert "SenseVoiceSmall has the published one" in by_name(tmp_path / "out")["am.mvn"].note
    (tmp_path / "empty").mkdir()
    names = ["config.json", "generation_config.json", "model.safetensors"]
    assert missing(tmp_path / "empty")[:3] == names


def test_a_published_set_is_listed_with_its_numbers(made: Files) -> None:
    for folder in (made.omni, made.dream):
        assert missing(folder, made.parts) == []
    found = by_name(made.omni, made.parts)
    stored = weights.read(made.omni)
    assert found["backbone"].bytes == sum(tensor.nbytes for tensor in stored.values())
    assert found["backbone"].note == f"{len(stored)} tensors of bfloat16"
    assert "hearing: model.pt" not in found
    assert "hearing: model.pt" in by_name(made.dream, made.parts)


def test_each_lost_file_is_named_with_the_way_to_get_it(own: Files) -> None:
    shards = sorted(own.omni.glob("model-*.safetensors"))[:2]
    files = (*shards, own.omni / "merges.txt", own.omni / "added_tokens.json")
    for path in (*files, own.root / "sensevoice/am.mvn", own.root / "decoder/hift.pt"):
        path.unlink()
    found = by_name(own.omni, own.parts)
    assert [name for name, entry in found.items() if entry.bytes is None] == [
        "merges.txt",
        "added_tokens.json",
        *(f"backbone: {path.name}" for path in shards),
        "speech decoder: hift.pt",
        "hearing: am.mvn",
    ]
    assert found[f"backbone: {shards[0].name}"].note == f"missing: fetch it into {own.omni}"
    assert found["hearing: am.mvn"].note.endswith("or give --cmvn another folder")


def test_a_part_that_is_nowhere(made: Files, tmp_path: Path) -> None:
    place = tmp_path / "none"
    entry = by_name(made.omni, replace(made.parts, image_codec=place))["picture codec"]
    assert entry.note == f"missing: nothing at {place}; give --image-codec another folder"


def test_a_cut_file_is_no_file(own: Files) -> None:
    path = own.root / "tokenizer/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    entry = by_name(own.omni, own.parts)["speech tokenizer"]
    assert entry.bytes is None
    assert "is truncated or corrupt" in entry.note


def test_parts_of_the_hub_are_found_where_they_were_fetched_before(
    made: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(name: str, *, local_files_only: bool, **options: object) -> str:
        assert local_files_only, "nothing is fetched"
        if name.startswith("THUDM"):
            raise OSError("not here")
        return str(made.root / ("sensevoice" if name.endswith("Small") else "magvitv2"))

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    found = by_name(made.omni)
    assert found["picture codec"].bytes
    entry = found["speech decoder: flow.pt"]
    assert entry.note.startswith("missing: fetched from THUDM/glm-4-voice-decoder on the hub when")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert by_name(made.omni)["picture codec"].bytes is None
