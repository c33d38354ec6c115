"""The small model from nothing: every size, seed and number of steps, and the order of the parts.

`train` runs all parts. Each keeps its state in a folder of `out`, goes on from there when it was
stopped, and is skipped once its result is written. Only the speech bank must be spoken before
(`data.voices`), since its synthesizer is a tool of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.glm_voice.codec import GlmVoice
from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.griffin_lim import GriffinLim
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.codecs.magvit2 import Magvit2, Magvit2Config
from omni_diffusion.codecs.sensevoice import CMVN_FILE, SenseVoice, SenseVoiceConfig
from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.data.mixture import Share
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import DataError
from omni_diffusion.evaluation.speech import WhisperJudge
from omni_diffusion.io import weights
from omni_diffusion.media import Waveform
from omni_diffusion.mini import speech_plan, unit_selection
from omni_diffusion.mini.codecs import speech_codec, speech_encoder, speech_flow
from omni_diffusion.mini.codecs.ctc import Clip, Words, clips, recordings
from omni_diffusion.mini.codecs.image_codec import ImageCodecConfig, ImageCodecObjective
from omni_diffusion.mini.encoded import (
    SPEEDS,
    SceneCodes,
    Spoken,
    encode_scenes,
    encode_speech,
    texts,
)
from omni_diffusion.mini.mixture import WorldMixture
from omni_diffusion.models.omni import GenerationConfig, ModelConfig, OmniModel
from omni_diffusion.tasks.task import Answer
from omni_diffusion.training.denoising import DenoisingObjective, give_geometry
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.page import PageLog
from omni_diffusion.training.stages import SPOKEN, Stage, stage
from omni_diffusion.training.trainer import LoopConfig, Objective, Trainer
from omni_diffusion.vocab import Vocabulary

if TYPE_CHECKING:
    from rich.progress import TaskID

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called with the part's name, the step, the last step and the figures since the last call."""

Recorded: TypeAlias = Iterable[tuple[speech_plan.Utterance, Waveform]]
"""Lines with their sound."""

M = TypeVar("M", bound=nn.Module)
TEXT_TOKENS = 1024  # at most; the world's sentences need fewer
SEED = 0

# Room for nearly every answer; training canvases follow the same rule.
LENGTHS: dict[str, tuple[float, int]] = {
    "asr": (0.35, 8),
    "tts": (6.3, 26),
    "caption": (0.0, 24),
    "vqa": (0.0, 12),
    "chat": (0.0, 18),
    "sqa": (0.0, 76),
    "svqa": (0.0, 76),
    "s2i": (0.0, 24),
}
SPOKEN_LINES, SPLICED_LINES = "spoken", "spliced"
SPLICES = {"captions": 5000, "questions": 1500, "said": 3500}
LONGEST = 224  # places of a spoken sentence with its prompt; few are longer
# What was heard is written down before it is painted: words are bound to places in the picture
# far sooner than frames are, of which each speaker has others.
ANSWERS: dict[str, Answer] = {"s2i": ("text", "image")}
# A small world repeats itself, in plain backgrounds as in speech, so no penalty for repetition.
SAMPLING: dict[str, SamplingParams] = {
    "t2i": SamplingParams(guidance=1.0),
    "inpaint": SamplingParams(),
    # The first block is the text's places: it is whole before the picture is begun.
    "s2i": SamplingParams(block_length=LENGTHS["s2i"][1]),
    # Learned in blocks, so written in blocks.
    **dict.fromkeys(SPOKEN, SamplingParams(block_length=16)),
}


def stages() -> tuple[Stage, Stage, Stage]:
    """The three stages: pictures and text; and speech; and speech-driven visual interaction."""
    pictures = (
        *(Share("t2i", 20), Share("caption", 14), Share("vqa", 10)),
        Share("chat", 2, 0.1),
    )
    joint = (
        *(Share("t2i", 10), Share("caption", 8), Share("vqa", 8), Share("chat", 2, 0.1)),
        *(Share("asr", 10), Share("tts", 12)),
    )
    interaction = (
        *(Share("t2i", 3), Share("caption", 14, 2.0), Share("vqa", 7), Share("chat", 1, 0.1)),
        *(Share("asr", 12, 1.5), Share("tts", 18, 2.0), Share("s2i", 8, 1.5)),
        *(Share("sqa", 1, 0.3), Share("svqa", 8)),
    )
    return (
        stage("pictures", pictures, steps=2400, lr=1.5e-3, seed=1, floor=0.3),
        stage("joint", joint, steps=450, lr=1.2e-3, seed=2, warmup=50, floor=0.7),
        stage("interaction", interaction, steps=2000, lr=1e-3, seed=3, warmup=50),
    )


def train(out: Path, bank: Path) -> OmniModel:
    """Train everything with a progress bar for each part; see `Mini`."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    text = "[progress.description]{task.description}"
    figures = TextColumn("{task.fields[figures]}")
    with Progress(TextColumn(text), BarColumn(), TimeRemainingColumn(), figures) as bars:
        known: dict[str, TaskID] = {}

        def report(name: str, step: int, steps: int, row: dict[str, float]) -> None:
            if name not in known:
                known[name] = bars.add_task(name, total=steps, figures="")
            shown = {key: row[key] for key in list(row)[:4]}
            said = "  ".join(f"{key} {value:.3f}" for key, value in shown.items())
            bars.update(known[name], completed=step, figures=said)

        return Mini(out, bank, report).train()


@dataclass(frozen=True)
class Mini:
    """One training of the small model: where its parts lie, and where the speech bank is.

    bank: a folder with plan.jsonl and audio/NNNNN.flac.
    """

    out: Path
    bank: Path
    report: Report | None = None

    def train(self) -> OmniModel:
        """All parts in order; the result is in out/model."""
        stages_ = stages()
        self.text()
        image = self.image()
        self.scenes(image)
        ears = self.hearing()
        tokenizer = self.speech_tokenizer()
        self.flow(tokenizer)
        self.spoken(ears, tokenizer)
        for number in range(len(stages_)):
            self.stage(number)
        return self.assemble()

    # ---------------------------------------------------------------------------------- codecs
    def text(self) -> TextCodec:
        """The byte-pair tokenizer of the world's sentences."""
        path = self.out / "tokenizer.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            TextCodec.train(texts(), TEXT_TOKENS).save(path)
        return TextCodec.load(path)

    def image(self) -> Magvit2:
        """The picture tokenizer, on scenes that are rendered as it goes."""
        codec = self._new(lambda: Magvit2(Magvit2Config.mini()))
        self._run(
            "image",
            lambda: ImageCodecObjective(codec, ImageCodecConfig(codes_until=3400)),
            codec,
            LoopConfig(4000, SEED, OptimConfig(lr=2e-3, warmup=100)),
        )
        return codec

    def scenes(self, codec: Magvit2) -> SceneCodes:
        """The codes of every scene."""
        path = self.out / "scenes.safetensors"
        if not path.exists():
            encode_scenes(codec, path, report=lambda n, all_: self._tell("scenes", n, all_, {}))
        return SceneCodes.open(path)

    def hearing(self) -> SenseVoice:
        """The speech encoder, by CTC on the bank's words; its head of words is then dropped."""
        words = self._words()
        config = replace(SenseVoiceConfig.mini(), ctc_size=words.size)
        model = self._new(lambda: SenseVoice(config))
        cmvn = self.out / "hearing" / CMVN_FILE

        def objective() -> Objective:
            heard = self._clips(words, speech_encoder.log_mel)
            if not cmvn.exists():
                cmvn.parent.mkdir(parents=True, exist_ok=True)
                fbank.write_cmvn(speech_encoder.measure_cmvn(model, heard[:1000]), cmvn)
            model.cmvn = fbank.read_cmvn(cmvn)
            return speech_encoder.HearingObjective(model, heard, speech_encoder.HearingConfig())

        optim = OptimConfig(lr=1.5e-3, warmup=200, weight_decay=0.01)
        self._run("hearing", objective, model, LoopConfig(2200, SEED, optim, average=0.998))
        tensors = {k: v for k, v in model.state_dict().items() if not k.startswith("ctc.")}
        return SenseVoice.load(tensors, SenseVoiceConfig.mini(), fbank.read_cmvn(cmvn))

    def speech_tokenizer(self) -> SpeechTokenizer:
        """Sound to codes at 25 a second, by words and mel on the quantised vectors."""
        words = self._words()
        tokenizer = self._new(lambda: SpeechTokenizer(SpeechTokenizerConfig.mini()))
        config = speech_codec.TokenizerConfig(restart_until=1800)
        training = self._new(
            lambda: speech_codec.TokenizerTraining(tokenizer, words.size, config.codebook)
        )

        def objective() -> Objective:
            heard = self._clips(words, lambda wave: speech_codec.log_mel(tokenizer, wave))
            return speech_codec.TokenizerObjective(training, heard, config)

        optim = OptimConfig(lr=1e-3, warmup=200, weight_decay=0.01)
        loop = LoopConfig(3000, SEED, optim, average=0.998)
        self._run("speech_tokenizer", objective, training, loop)
        return tokenizer.eval()

    def flow(self, tokenizer: SpeechTokenizer) -> Flow:
        """Codes to mel by flow matching, in the answer voice."""
        flow = self._new(lambda: Flow(FlowConfig.mini()))

        def objective() -> Objective:
            lines = [u for u in self._plan() if u.voice == speech_plan.ANSWER_VOICE]
            waves = (wave for _, wave in recordings(lines, self.bank / "audio"))
            said = speech_flow.voiced(waves, tokenizer, flow)
            speech_flow.start_at_mean(flow, said)
            return speech_flow.FlowObjective(flow, said, speech_flow.FlowTrainingConfig())

        loop = LoopConfig(2500, SEED, OptimConfig(lr=1e-3, warmup=200), average=0.998)
        self._run("speech_flow", objective, flow, loop)
        return flow.eval()

    def spoken(self, ears: SenseVoice, tokenizer: SpeechTokenizer) -> None:
        """The bank as frames and codes; and the same of its words joined anew, at one speed."""

        def encode(
            name: str, recorded: Callable[[], Recorded], count: int, variants: int = len(SPEEDS)
        ) -> None:
            if not (self.out / name / "lines.jsonl").exists():
                report = partial(self._tell_count, name, count)
                heard = encode_speech(recorded(), ears, tokenizer, variants=variants, report=report)
                heard.save(self.out / name)

        plan = self._plan()
        encode(SPOKEN_LINES, lambda: recordings(plan, self.bank / "audio"), len(plan))
        encode(SPLICED_LINES, self._splices, sum(SPLICES.values()), variants=1)

    def lines(self) -> Spoken:
        """What `spoken` made."""
        return Spoken.open(self.out / SPOKEN_LINES) + Spoken.open(self.out / SPLICED_LINES)

    def _splices(self) -> Recorded:
        """New lines from the words of the recorded ones, which Whisper finds once."""
        path = self.out / "cuts.jsonl"
        recorded = list(recordings(self._plan(), self.bank / "audio"))
        if not path.exists():
            judge = WhisperJudge.open()
            cuts = {}
            starts = judge.align([(wave, line.text) for line, wave in recorded])
            for (line, _), seconds in zip(recorded, starts, strict=True):
                cuts[line.index] = seconds
                self._tell_count("words found", len(recorded), len(cuts))
            unit_selection.save_cuts(cuts, path)
        splicer = unit_selection.Splicer(recorded, unit_selection.load_cuts(path))
        return unit_selection.plan(splicer, len(self._plan()), **SPLICES, seed=SEED)

    # -------------------------------------------------------------------------------- backbone
    def stage(self, number: int) -> Dream:
        """One stage (0, 1 or 2), from the weights of the one before."""
        text, one = self.text(), stages()[number]
        vocabulary = self._vocabulary(text)
        backbone = self._new(lambda: Dream(self._sizes(vocabulary)))
        if number == 0:
            generator = torch.Generator().manual_seed(SEED)
            codec = Magvit2(Magvit2Config.mini())
            every = torch.arange(codec.config.codes)[None]
            signs = codec.codes_of(every, (1, codec.config.codes))[0, :, 0].T
            give_geometry(backbone, vocabulary.image, signs, scale=0.05, generator=generator)
            book = self.speech_tokenizer().codebook.weight
            give_geometry(backbone, vocabulary.speech, book, scale=0.05, generator=generator)
        else:
            before = self.out / stages()[number - 1].name / "weights.safetensors"
            weights.load_into(backbone, weights.read(before), where=str(before))

        def objective() -> Objective:
            mixture = WorldMixture(
                one.shares,
                vocabulary,
                text,
                SceneCodes.open(self.out / "scenes.safetensors"),
                self.lines() if number else None,
                lengths=LENGTHS,
                answers=ANSWERS,
                distort=True,
            )
            return DenoisingObjective(backbone, vocabulary, mixture, one.denoising)

        self._run(one.name, objective, backbone, one.loop)
        return backbone.eval()

    def assemble(self) -> OmniModel:
        """All parts as one model folder, out/model, stored in half precision."""
        text, image, ears = self.text(), self.image(), self.hearing()
        tokenizer = self.speech_tokenizer()
        speech = GlmVoice(tokenizer, self.flow(tokenizer), GriffinLim())
        suite = CodecSuite(text=text, image=image.eval(), hearing=ears, speech=speech)
        vocabulary = self._vocabulary(text)
        config = ModelConfig(
            "mini",
            vocabulary,
            self._sizes(vocabulary),
            suite.config,
            GenerationConfig(LENGTHS, SAMPLING, ANSWERS, LONGEST),
        )
        model = OmniModel(config, suite, self.stage(len(stages()) - 1))
        model.save(self.out / "model", torch.float16)
        return model

    # ----------------------------------------------------------------------------------- inside
    def _vocabulary(self, text: TextCodec) -> Vocabulary:
        return Vocabulary.build(
            text=text.vocabulary_size,
            speech=SpeechTokenizerConfig.mini().codebook_size,
            image=Magvit2Config.mini().codes,
        )

    def _sizes(self, vocabulary: Vocabulary) -> DreamConfig:
        return DreamConfig.mini(vocabulary.size, SenseVoiceConfig.mini().dim)

    def _plan(self) -> Sequence[speech_plan.Utterance]:
        path = self.bank / "plan.jsonl"
        if not path.exists():
            raise DataError(f"no speech bank at {self.bank}: speak it first (`make voices`)")
        return speech_plan.load_plan(path)

    def _words(self) -> Words:
        return Words.of(line.text for line in self._plan() if line.split == "train")

    def _clips(self, words: Words, features: Callable[..., Tensor]) -> list[Clip]:
        recorded = recordings(self._plan(), self.bank / "audio")
        return clips(recorded, words, features)

    def _new(self, make: Callable[[], M]) -> M:
        torch.manual_seed(SEED)
        return make()

    def _run(
        self, name: str, objective: Callable[[], Objective], module: nn.Module, loop: LoopConfig
    ) -> None:
        """Train a part unless its weights are there; leave the module with the averaged weights."""
        folder = self.out / name
        done = folder / "weights.safetensors"
        if not done.exists():
            trainer = Trainer(objective(), loop, folder, logs=[PageLog(folder)])
            trainer.resume()
            trainer.fit(lambda step, row: self._tell(name, step, loop.steps, row))
            weights.write(trainer.weights(), done)
        weights.load_into(module, weights.read(done), where=str(done))

    def _tell_count(self, name: str, all_: int, n: int) -> None:
        self._tell(name, n, all_, {})

    def _tell(self, name: str, step: int, steps: int, row: dict[str, float]) -> None:
        if self.report:
            self.report(name, step, steps, row)
