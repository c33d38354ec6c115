"""The files of the page at `/`: whole, for one another, and for nobody else."""

import re

import pytest

from omni_diffusion.serving.page import HEADERS, assets

ASSETS = assets()
TEXTS = {path: asset.body.decode() for path, asset in ASSETS.items()}
SCRIPTS = sorted(path for path in TEXTS if path.endswith(".js"))


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r'(?:src|href)="([^"]+)"', TEXTS["/"]))
    assert named
    assert {f"/{path}" for path in named} <= set(ASSETS)
    for path in SCRIPTS:
        for other in re.findall(r'from "\./([^"]+)"|new URL\("([^".]+\.js)"', TEXTS[path]):
            assert f"/web/{other[0] or other[1]}" in ASSETS, (path, other)


def test_types_are_those_of_the_files() -> None:
    assert ASSETS["/"].content_type == "text/html; charset=utf-8"
    assert {ASSETS[path].content_type for path in SCRIPTS} == {"text/javascript; charset=utf-8"}
    assert ASSETS["/web/icon.svg"].content_type == "image/svg+xml; charset=utf-8"


@pytest.mark.parametrize("path", sorted(ASSETS))
def test_nothing_is_asked_of_anybody_else(path: str) -> None:
    text = TEXTS[path].replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]+/|@import|\burl\((?!#)", text)


def test_the_policy_needs_no_exception() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", TEXTS["/"])
    for path in SCRIPTS:
        assert not re.search(r"\beval\(|new Function|style=\"", TEXTS[path]), path


def test_ids_are_unique_and_the_scripts_find_theirs() -> None:
    ids = re.findall(r'\bid="([^"]+)"', TEXTS["/"])
    assert len(ids) == len(set(ids))
    for path in SCRIPTS:
        found = re.findall(r'(?:find|getElementById)\("([\w-]+)"\)', TEXTS[path])
        assert set(found) <= set(ids), path
    labels = re.findall(r'(?:\bfor|aria-controls|aria-labelledby)="([^"]+)"', TEXTS["/"])
    assert set(labels) <= set(ids)


def test_every_control_has_a_name() -> None:
    for tag in re.findall(r"<button[^>]*>\s*</button>", TEXTS["/"]):
        assert "aria-label" in tag
    assert TEXTS["/"].count("aria-live=") == 1
