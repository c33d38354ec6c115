"""From media to a canvas that a model can fill, for every task; and what is refused."""

from dataclasses import replace

import pytest
import torch
from tests.tasks.tiny_scenes import CONVERSATIONS, HEARD, SAID, SEEN, filled, user

from omni_diffusion.conversation import Codes, Frames, Image, Message, Speech, Text, Turn
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import MediaError, TaskError
from omni_diffusion.media import Waveform
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.catalog import CATALOG, task
from omni_diffusion.tasks.defaults import GenerationConfig
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.read import read
from omni_diffusion.tasks.render import layout_training, render


@pytest.mark.parametrize("name", CATALOG)
def test_every_task_has_something_to_fill(name: str, model: OmniModel) -> None:
    prepared = render(task(name), CONVERSATIONS[name], model)
    canvas, (start, stop) = prepared.canvas, prepared.canvas.answer
    assert prepared.task is task(name)
    assert canvas.blanks == int(canvas.blank[start:stop].sum()) > 0
    assert canvas.length <= model.max_positions
    assert int(canvas.ids.max()) < model.vocabulary.size
    for slot in canvas.slots:
        assert slot.frames.shape[1] == model.config.backbone.speech_dim
        assert set(canvas.ids[slot.start : slot.stop].tolist()) == {
            model.vocabulary.context_of_audio
        }
    assert all(start <= s.start < s.stop <= stop for s in prepared.spans)
    with torch.no_grad():
        logits = model.backbone(
            canvas.ids[None], slots=[(0, s) for s in canvas.slots], logits_at=canvas.blank[None]
        )
    assert logits.shape == (canvas.blanks, model.vocabulary.size)


@pytest.mark.parametrize("name", [n for n in CATALOG if CATALOG[n].answer])
def test_it_is_the_canvas_that_training_lays(name: str, model: OmniModel) -> None:
    prepared = render(task(name), CONVERSATIONS[name], model)
    known = {
        "text": Text("a dog"),
        "image": Codes("image", torch.arange(16)),
        "speech": Codes("speech", torch.arange(4)),
    }
    answer = Turn("assistant", tuple(known[kind] for kind in task(name).answer))
    turns = (*encode(CONVERSATIONS[name], model.codecs), answer)
    start, stop = prepared.canvas.answer
    trained = layout_training(
        task(name), turns, model.vocabulary, model.codecs.text, length=stop - start
    )
    given = ~prepared.canvas.blank
    assert torch.equal(prepared.canvas.ids[given], trained.ids[given])
    for ours, theirs in zip(prepared.canvas.slots, trained.slots, strict=True):
        assert ours.start == theirs.start
        assert torch.equal(ours.frames, theirs.frames)


def test_what_is_seen_is_larger_than_what_is_made(model: OmniModel) -> None:
    said = (Message("user", (SEEN, HEARD)), Message("assistant", (SEEN, HEARD)))
    one, two = encode(said, model.codecs)
    sizes = model.codecs.image.config
    assert [len(turn.parts[0].ids) for turn in (one, two)] == [  # type: ignore[union-attr]
        sizes.tokens(sizes.understanding_size),
        sizes.tokens(sizes.generation_size),
    ]
    assert isinstance(one.parts[1], Frames)
    assert isinstance(two.parts[1], Codes)


def test_guidance_asks_the_null_prompt_with_the_same_answer(model: OmniModel) -> None:
    for name, conversation in CONVERSATIONS.items():
        prepared = render(task(name), conversation, model, SamplingParams(guidance=1.5))
        assert prepared.uncond is not None
        ours, theirs = prepared.canvas, prepared.uncond
        assert torch.equal(ours.ids[slice(*ours.answer)], theirs.ids[slice(*theirs.answer)])
        assert torch.equal(ours.blank[slice(*ours.answer)], theirs.blank[slice(*theirs.answer)])
    assert render(task("t2i"), CONVERSATIONS["t2i"], model).uncond is None
    assert render(task("s2i"), CONVERSATIONS["s2i"], model).uncond is not None


def test_steps_follow_the_tasks_pace_unless_asked_otherwise(model: OmniModel) -> None:
    paced = render(task("asr"), CONVERSATIONS["asr"], model)
    assert paced.params.steps == -(-paced.canvas.blanks // 2)
    seeded = render(task("asr"), CONVERSATIONS["asr"], model, SamplingParams(seed=1))
    assert seeded.params == SamplingParams(seed=1, steps=paced.params.steps)
    asked = SamplingParams(steps=3)
    assert render(task("asr"), CONVERSATIONS["asr"], model, asked).params is asked


def test_a_models_own_lengths_and_sampling_come_first(model: OmniModel) -> None:
    generation = GenerationConfig(
        lengths={"tts": (2.0, 30), "vqa": (0.0, 17)},
        sampling={"t2i": SamplingParams(steps=5, guidance=1.0)},
    )
    config = replace(model.config, generation=generation)
    own = OmniModel(config, model.codecs, model.backbone)

    def length(name: str) -> int:
        start, stop = render(task(name), CONVERSATIONS[name], own).canvas.answer
        return stop - start

    tokens = len(model.codecs.text.encode(SAID.text))
    assert length("tts") == 2 * tokens + 30
    assert length("vqa") == 17
    assert render(task("t2i"), CONVERSATIONS["t2i"], own).params.steps == 5
    assert render(task("t2i"), CONVERSATIONS["t2i"], own).uncond is not None


def test_a_model_may_answer_with_other_parts_than_the_task(model: OmniModel) -> None:
    generation = GenerationConfig(answers={"s2i": ("text", "image")}, lengths={"s2i": (0.0, 12)})
    config = replace(model.config, generation=generation)
    own = OmniModel(config, model.codecs, model.backbone)
    prepared = render(task("s2i"), CONVERSATIONS["s2i"], own)
    text, image = prepared.spans
    start = prepared.canvas.answer[0]
    assert (text.kind, text.start, text.stop) == ("text", start, start + 12)
    assert (image.kind, image.start, image.stop) == ("image", start + 13, start + 29)
    assert int(prepared.canvas.ids[start + 12]) == model.vocabulary.begin_of_image
    assert prepared.canvas.blanks == 12 + 16
    said, drawn = read(filled(prepared.canvas), prepared, own).parts
    assert isinstance(said, Text)
    assert isinstance(drawn, Image)
    assert render(task("s2i"), CONVERSATIONS["s2i"], model).spans[0].kind == "image"


def test_length_may_be_asked_for(model: OmniModel) -> None:
    for name in ("chat", "tts", "svqa"):
        canvas = render(task(name), CONVERSATIONS[name], model, max_tokens=41).canvas
        assert canvas.answer[1] - canvas.answer[0] == 41
    for wrong in (0, -1, 10**12):
        with pytest.raises(TaskError, match=f"an answer of {wrong} tokens"):
            render(task("chat"), CONVERSATIONS["chat"], model, max_tokens=wrong)


def test_the_published_share_of_speech_comes_with_the_published_rules(model: OmniModel) -> None:
    for rules, place in (("paper", 10), ("upstream", 8)):
        params = SamplingParams(rules=rules)  # type: ignore[arg-type]
        prepared = render(task("svqa"), CONVERSATIONS["svqa"], model, params, max_tokens=40)
        assert prepared.spans[1].start - prepared.canvas.answer[0] == place + 1


def test_without_constraint_the_model_opens_and_closes_by_itself(model: OmniModel) -> None:
    free = SamplingParams(constrain=False)
    for name in ("t2i", "tts", "chat"):
        canvas = render(task(name), CONVERSATIONS[name], model, free).canvas
        assert canvas.blanks == canvas.answer[1] - canvas.answer[0]
    for name in ("infill", "inpaint"):
        bound = render(task(name), CONVERSATIONS[name], model).canvas
        assert render(task(name), CONVERSATIONS[name], model, free).canvas.blanks == bound.blanks


def test_a_text_far_too_long(model: OmniModel) -> None:
    with pytest.raises(TaskError, match=r"takes \d+ tokens, of them \d+ .*has 1024; shorten it"):
        render(task("chat"), user(Text("a red apple " * 2000)), model)
    with pytest.raises(TaskError, match="shorten it"):
        render(task("tts"), user(Text("a red apple " * 100)), model)


def test_nothing_to_answer(model: OmniModel) -> None:
    answered = (*user(SAID), Message("assistant", (SAID,)))
    with pytest.raises(TaskError, match="no token is masked; let the conversation end"):
        render(task("chat"), answered, model)
    with pytest.raises(TaskError, match="no token is masked; give an assistant turn"):
        render(task("inpaint"), user(SAID), model)
    with pytest.raises(TaskError, match="got nothing to answer"):
        render(task("chat"), (), model)


def test_media_that_no_codec_takes(model: OmniModel) -> None:
    silence = Waveform(torch.zeros(1, 0), 16_000)
    with pytest.raises(MediaError, match="empty waveform"):
        render(task("asr"), user(Speech(silence)), model)


def test_drafts_hold_media_codes_and_blanks_only() -> None:
    with pytest.raises(TaskError, match="'a dog' cannot be a part"):
        Message("user", ("a dog",))  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="role 'human' is unknown"):
        Message("human", (Image(SEEN.picture),))  # type: ignore[arg-type]
