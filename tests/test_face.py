"""The exported names, and that neither they nor --help wait for torch."""

import subprocess
import sys

import pytest

import omni_diffusion

NAMES = [
    *("Blank", "Engine", "Image", "Inputs", "Message", "OmniError", "OmniModel", "Picture"),
    *("Request", "Result", "SamplingParams", "Speech", "Text", "Waveform"),
    *("ask", "box", "cloze", "inpainting"),
]
OPTIONAL = ("transformers", "peft", "torchao", "diffusers", "accelerate", "huggingface_hub")
QUIET = """
import sys
{body}
heavy = {{"torch", "numpy", "PIL", "tokenizers", *{optional}}} & set(sys.modules)
assert not heavy, heavy
"""
HELP = """
from omni_diffusion.cli.main import main
for words in ([], ["demo"], ["run"], ["eval"], ["train"]):
    sys.argv = ["omni-diffusion", *words, "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, end
"""


def test_the_names_are_these() -> None:
    assert sorted(omni_diffusion.__all__) == sorted(omni_diffusion.HOMES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_one_of_its_home(name: str) -> None:
    found = getattr(omni_diffusion, name)
    assert found.__name__ == name
    assert found.__module__ == f"omni_diffusion.{omni_diffusion.HOMES[name]}"


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
        omni_diffusion.Oracle  # noqa: B018


@pytest.mark.parametrize("body", ["import omni_diffusion", HELP], ids=["import", "help"])
def test_nothing_heavy_is_imported(body: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUIET.format(body=body, optional=OPTIONAL)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_answering_needs_no_optional_library() -> None:
    body = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))  # an import of any of them fails
from omni_diffusion import Engine, Message, OmniModel, Request, SamplingParams, Text
asked = Request("chat", [Message("user", (Text("a"),))], SamplingParams(steps=1))
(result,) = Engine(OmniModel.open()).run([asked])
assert result.error is None
"""
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
