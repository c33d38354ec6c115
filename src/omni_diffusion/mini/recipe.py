"""The recipe of the small model: all sizes, seeds and step counts, and the order of its parts.

`train` trains all parts from scratch. Each part keeps its checkpoints in a folder of `out`, resumes
from them, and is skipped once its result is written. The speech has to be recorded before
(`mini.speak`), because its synthesizer has an environment of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from omni_diffusion.data.mixture import TaskShare
from omni_diffusion.diffusion.masking import MaskingConfig
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import DataError
from omni_diffusion.evaluation.speech import WhisperJudge
from omni_diffusion.io import files, weights
from omni_diffusion.media import Waveform
from omni_diffusion.mini import speech_plan, unit_selection
from omni_diffusion.mini.codecs import ctc, speech_codec, speech_encoder, speech_flow
from omni_diffusion.mini.codecs.ctc import Clip, Words, recorded_lines
from omni_diffusion.mini.codecs.image_codec import ImageCodecConfig, ImageCodecObjective
from omni_diffusion.mini.codecs.speech_flow import FlowClip
from omni_diffusion.mini.encoded import (
    SPEEDS,
    EncodedSpeech,
    SceneCodes,
    encode_scenes,
    encode_speech,
    texts,
)
from omni_diffusion.mini.kokoro import trim
from omni_diffusion.mini.mixture import SceneMixture
from omni_diffusion.mini.phrases import PAUSE
from omni_diffusion.models.omni import ModelConfig, OmniModel
from omni_diffusion.tasks.defaults import GenerationConfig
from omni_diffusion.tasks.task import AnswerKinds
from omni_diffusion.training.denoising import (
    DenoisingConfig,
    DenoisingObjective,
    init_code_embeddings,
)
from omni_diffusion.training.optim import OptimConfig
from omni_diffusion.training.page import PageLog
from omni_diffusion.training.trainer import LoopConfig, Objective, Trainer
from omni_diffusion.vocab import Vocabulary

if TYPE_CHECKING:
    from rich.progress import TaskID

ProgressCallback = Callable[[str, int, int, dict[str, float]], None]
"""Called with the part's name, the step, the number of steps and the latest metrics."""

RecordedLines: TypeAlias = Iterable[tuple[speech_plan.Utterance, Waveform]]
"""Lines with their recordings."""

M = TypeVar("M", bound=nn.Module)
TEXT_TOKENS = 1024  # at most; the sentences need fewer
SEED = 0
SPOKEN = ("tts", "sqa", "svqa")  # tasks whose answer contains speech
BLOCK_LENGTH = 24  # tokens of a block, in the training of these tasks

# Room for nearly every answer; training canvases follow the same rule.
LENGTHS: dict[str, tuple[float, int]] = {
    "asr": (0.35, 8),
    "tts": (6.3, 42),
    "caption": (0.0, 24),
    "vqa": (0.0, 12),
    "chat": (0.0, 18),
    "sqa": (0.0, 76),
    "svqa": (0.0, 76),
    "s2i": (0.0, 24),
}
SPOKEN_LINES, SPLICED_LINES = "spoken", "spliced"
JOINED = 4000  # sentences joined from phrases that the flow decoder learns from
SPLICES = {"captions": 16000, "questions": 30000, "said": 900}
# The speech encoder hears every recording twice as often as a splice, in which words meet abruptly.
ENCODER_SPLICES = {"captions": 5500, "questions": 2500, "said": 1000}
LONGEST = 224  # tokens of a spoken sentence with its prompt; few are longer
# Speech to image first writes a transcript: the model learns to bind words to image tokens much
# sooner than speech frames, which differ between speakers.
ANSWERS: dict[str, AnswerKinds] = {"s2i": ("text", "image")}
# Plain backgrounds and short sentences repeat tokens, so there is no repetition penalty. A step
# commits all tokens that are sure (`docs/fewer-steps.md` has the curves): most answers need few
# steps.
SURE = 0.1  # nats, of text
LIKELY = 1.0  # nats, of images and speech
BOTH = 0.3  # nats, of text with its speech: "yes" and "no dog" must not be committed at once
SAMPLING: dict[str, SamplingParams] = {
    **dict.fromkeys(("chat", "asr", "caption", "vqa"), SamplingParams(entropy_bound=SURE)),
    "t2i": SamplingParams(guidance=1.0, entropy_bound=LIKELY),
    "inpaint": SamplingParams(entropy_bound=LIKELY),
    # The first block is the text, so it is complete before the image begins.
    "s2i": SamplingParams(block_length=LENGTHS["s2i"][1], entropy_bound=LIKELY),
    # Trained in blocks, so decoded in blocks.
    "tts": SamplingParams(block_length=16, entropy_bound=LIKELY),
    **dict.fromkeys(("sqa", "svqa"), SamplingParams(block_length=16, entropy_bound=BOTH)),
}


@dataclass(frozen=True)
class MiniStage:
    """A training stage of the small model: the tasks of a step, the loop and the objective.

    phrase_codes: what is spoken is joined from phrases that are recorded alone (`mini.phrases`).
    start: the stages whose averaged weights it starts from, with their shares; none = the stage
    before.
    """

    name: str
    shares: tuple[TaskShare, ...]
    loop: LoopConfig
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    phrase_codes: bool = False
    start: dict[str, float] = field(default_factory=dict)


def make_stage(
    name: str,
    shares: tuple[TaskShare, ...],
    *,
    steps: int,
    lr: float,
    seed: int,
    warmup: int = 100,
    floor: float = 0.05,
    ema_decay: float = 0.999,
) -> MiniStage:
    """A stage with the small model's masking.

    Mask ratios follow MaskGIT's cosine, which favours high ratios, and half of the answers are
    masked completely. With uniform ratios most of an image is visible most of the time, its tokens
    follow from their neighbours, and the model learns the text last. Answers with speech are mostly
    trained in blocks from left to right: the position of a sound follows from the sound before it
    sooner than from the text.
    """
    masking = MaskingConfig(variant="cosine", full=0.5)
    spoken = replace(masking, blocks=0.8, block_length=BLOCK_LENGTH)
    return MiniStage(
        name,
        shares,
        LoopConfig(steps, seed, OptimConfig(lr=lr, warmup=warmup, floor=floor), ema_decay),
        DenoisingConfig(masking, precision="bfloat16", by_task=dict.fromkeys(SPOKEN, spoken)),
    )


SHARES: dict[str, tuple[TaskShare, ...]] = {  # of the samples and the loss of a step, by stage
    "pictures": (
        *(TaskShare("t2i", 20), TaskShare("caption", 14), TaskShare("vqa", 6)),
        *(TaskShare("presence", 4), TaskShare("chat", 2, 0.1)),
    ),
    "joint": (
        *(TaskShare("t2i", 10), TaskShare("caption", 8), TaskShare("vqa", 5)),
        *(TaskShare("presence", 3), TaskShare("chat", 2, 0.1)),
        *(TaskShare("asr", 10), TaskShare("tts", 12)),
    ),
    "interaction": (
        *(TaskShare("t2i", 3), TaskShare("caption", 14, 2.0), TaskShare("vqa", 4)),
        *(TaskShare("presence", 3), TaskShare("chat", 1, 0.1)),
        *(TaskShare("asr", 12, 1.5), TaskShare("tts", 18, 2.0), TaskShare("s2i", 8, 1.5)),
        *(TaskShare("sqa", 1, 0.3), TaskShare("svqa", 6), TaskShare("spoken_presence", 2)),
    ),
    "listening": (
        *(TaskShare("t2i", 2), TaskShare("caption", 3), TaskShare("vqa", 4, 4.0)),
        *(TaskShare("presence", 10, 6.0), TaskShare("chat", 0.5, 0.1)),
        *(TaskShare("asr", 32, 3.0), TaskShare("tts", 4), TaskShare("s2i", 6, 1.5)),
        *(TaskShare("sqa", 0.5, 0.3), TaskShare("svqa", 3), TaskShare("spoken_presence", 1)),
    ),
    "presence": (
        *(TaskShare("t2i", 2), TaskShare("caption", 3), TaskShare("vqa", 10)),
        *(TaskShare("presence", 30, 3.0), TaskShare("chat", 2, 0.2)),
        *(TaskShare("text_presence", 14, 1.3), TaskShare("asr", 3, 0.7)),
        *(TaskShare("s2i", 2, 0.7), TaskShare("svqa", 3, 0.7)),
    ),
    "speaking": (
        *(TaskShare("t2i", 2, 0.7), TaskShare("caption", 2, 0.7), TaskShare("vqa", 2, 0.5)),
        *(TaskShare("presence", 6, 1.0), TaskShare("chat", 0.5, 0.1)),
        *(TaskShare("text_presence", 1.5, 0.1), TaskShare("asr", 4, 0.8)),
        *(TaskShare("tts", 36, 3.5), TaskShare("s2i", 3, 0.8), TaskShare("sqa", 1, 0.3)),
        TaskShare("svqa", 9, 2.0),
    ),
    "rehearsal": (
        *(TaskShare("t2i", 2, 0.7), TaskShare("caption", 6), TaskShare("vqa", 1.8, 0.36)),
        *(TaskShare("presence", 4.2, 0.84), TaskShare("chat", 0.2, 0.02)),
        *(TaskShare("text_presence", 0.8, 0.08), TaskShare("asr", 9, 1.3)),
        *(TaskShare("tts", 30, 3.2), TaskShare("s2i", 5), TaskShare("sqa", 1, 0.3)),
        TaskShare("svqa", 10, 2.2),
    ),
    "answering": (
        *(TaskShare("t2i", 2, 0.7), TaskShare("caption", 3, 0.7), TaskShare("vqa", 1.5, 0.3)),
        *(TaskShare("presence", 3.5, 0.7), TaskShare("chat", 0.2, 0.02)),
        *(TaskShare("text_presence", 0.8, 0.08), TaskShare("asr", 7, 1.2)),
        *(TaskShare("tts", 34, 3.4), TaskShare("s2i", 5), TaskShare("sqa", 1, 0.3)),
        TaskShare("svqa", 14, 2.6),
    ),
    "phrases": (
        *(TaskShare("t2i", 4, 1.2), TaskShare("caption", 3, 0.7), TaskShare("vqa", 2.4, 0.48)),
        *(TaskShare("presence", 5.6, 1.12), TaskShare("chat", 0.15, 0.015)),
        *(TaskShare("text_presence", 0.85, 0.085), TaskShare("asr", 7, 1.2)),
        *(TaskShare("tts", 28, 3.2), TaskShare("s2i", 4), TaskShare("sqa", 2, 0.5)),
        *(TaskShare("svqa", 10, 1.64), TaskShare("spoken_presence", 5, 0.82)),
        TaskShare("spoken_relation", 7, 1.14),
    ),
    "questions": (
        *(TaskShare("t2i", 5, 1.2), TaskShare("caption", 6), TaskShare("vqa", 4, 0.7)),
        *(TaskShare("presence", 5), TaskShare("chat", 0.2, 0.02)),
        *(TaskShare("text_presence", 0.5, 0.05), TaskShare("asr", 14, 1.6)),
        *(TaskShare("tts", 10, 1.6), TaskShare("s2i", 5), TaskShare("sqa", 1, 0.3)),
        *(TaskShare("svqa", 4, 0.8), TaskShare("svqa_text", 20, 3.2)),
        *(TaskShare("svqa_text_presence", 16, 2.4), TaskShare("svqa_text_relation", 5, 0.8)),
    ),
}


def stages() -> tuple[MiniStage, ...]:
    """The paper's three stages, and the third again with more of what is learned last.

    They are images and text; with speech; speech-driven visual interaction; then recognition,
    whether an object is there, speech with one sequence of codes for each text, all again, again
    with more speech in the answers, with more questions that are spoken, and with what is answered
    to them in text.
    """
    later = partial(make_stage, warmup=30, ema_decay=0.99)
    return (
        make_stage("pictures", SHARES["pictures"], steps=2400, lr=1.5e-3, seed=1, floor=0.3),
        make_stage("joint", SHARES["joint"], steps=450, lr=1.2e-3, seed=2, warmup=50, floor=0.7),
        make_stage("interaction", SHARES["interaction"], steps=2000, lr=1e-3, seed=3, warmup=50),
        later("listening", SHARES["listening"], steps=700, lr=8e-4, seed=13),
        later("presence", SHARES["presence"], steps=500, lr=8e-4, seed=21),
        replace(
            later("speaking", SHARES["speaking"], steps=700, lr=1.2e-3, seed=21),
            phrase_codes=True,
        ),
        replace(
            later("rehearsal", SHARES["rehearsal"], steps=720, lr=1.2e-3, seed=33),
            phrase_codes=True,
            start={"listening": 0.5, "speaking": 0.5},
        ),
        replace(
            later("answering", SHARES["answering"], steps=820, lr=1.2e-3, seed=47),
            phrase_codes=True,
            start={"listening": 0.2, "speaking": 0.2, "rehearsal": 0.6},
        ),
        replace(
            later("phrases", SHARES["phrases"], steps=750, lr=1.2e-3, seed=61),
            phrase_codes=True,
            start={"listening": 0.06, "speaking": 0.06, "rehearsal": 0.18, "answering": 0.7},
        ),
        replace(
            later(
                "questions", SHARES["questions"], steps=1400, lr=1.2e-3, seed=71, ema_decay=0.995
            ),
            phrase_codes=True,
        ),
    )


def train(out: Path, bank: Path) -> OmniModel:
    """Train all parts with a progress bar each; see `Mini`."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    text = "[progress.description]{task.description}"
    metrics = TextColumn("{task.fields[metrics]}")
    with Progress(TextColumn(text), BarColumn(), TimeRemainingColumn(), metrics) as bars:
        known: dict[str, TaskID] = {}

        def report(name: str, step: int, steps: int, row: dict[str, float]) -> None:
            if name not in known:
                known[name] = bars.add_task(name, total=steps, metrics="")
            shown = {key: row[key] for key in list(row)[:4]}
            text = "  ".join(f"{key} {value:.3f}" for key, value in shown.items())
            bars.update(known[name], completed=step, metrics=text)

        return Mini(out, bank, report).train()


@dataclass(frozen=True)
class Mini:
    """One training run of the small model.

    out: folder of all parts. bank: folder with plan.jsonl and audio/NNNNN.flac. report: progress
    callback.
    """

    out: Path
    bank: Path
    report: ProgressCallback | None = None

    def train(self) -> OmniModel:
        """Train all parts in order and write the model to out/model.

        Raises StorageError if another process trains in the folder.
        """
        with files.exclusive(self.out):
            return self._train()

    def _train(self) -> OmniModel:
        stages_ = stages()
        self.text()
        image = self.image()
        self.scenes(image)
        encoder = self.speech_encoder()
        tokenizer = self.speech_tokenizer()
        self.flow(tokenizer)
        self.encoded_speech(encoder, tokenizer)
        for number in range(len(stages_)):
            self.stage(number)
        return self.assemble()

    # ---------------------------------------------------------------------------------- codecs
    def text(self) -> TextCodec:
        """The byte-pair tokenizer of the sentences."""
        path = self.out / "tokenizer.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            TextCodec.train(texts(), TEXT_TOKENS).save(path)
        return TextCodec.load(path)

    def image(self) -> Magvit2:
        """The image tokenizer, trained on scenes that are rendered on the fly."""
        codec = self._new(lambda: Magvit2(Magvit2Config.mini()))
        self._run(
            "image",
            lambda: ImageCodecObjective(codec, ImageCodecConfig(codes_until=3400)),
            codec,
            LoopConfig(4000, SEED, OptimConfig(lr=2e-3, warmup=100)),
        )
        return codec

    def scenes(self, codec: Magvit2) -> SceneCodes:
        """The image tokens of every scene."""
        path = self.out / "scenes.safetensors"
        if not path.exists():
            encode_scenes(codec, path, report=lambda n, all_: self._report("scenes", n, all_, {}))
        return SceneCodes.open(path)

    def speech_encoder(self) -> SenseVoice:
        """The speech encoder that the backbone listens through: the recognizer without its head."""
        model = self.recognizer()
        tensors = {k: v for k, v in model.state_dict().items() if not k.startswith("ctc.")}
        return SenseVoice.load(tensors, SenseVoiceConfig.mini(), model.cmvn)

    def recognizer(self) -> SenseVoice:
        """The speech encoder with its CTC head.

        It is trained on the words of recordings and of spliced sentences.
        """
        words = self._words()
        config = replace(SenseVoiceConfig.mini(), ctc_size=words.size)
        model = self._new(lambda: SenseVoice(config))
        cmvn = self.out / "hearing" / CMVN_FILE

        def objective() -> Objective:
            recorded = self._clips(words, speech_encoder.kaldi_log_mel)
            lines = self._spliced_lines(ENCODER_SPLICES, SEED + 1)
            clips = [*recorded, *recorded, *ctc.clips(lines, words, speech_encoder.kaldi_log_mel)]
            if not cmvn.exists():
                cmvn.parent.mkdir(parents=True, exist_ok=True)
                fbank.write_cmvn(speech_encoder.clips_cmvn(model, clips[:1000]), cmvn)
            model.cmvn = fbank.read_cmvn(cmvn)
            config = speech_encoder.SpeechEncoderTrainingConfig()
            return speech_encoder.SpeechEncoderObjective(model, clips, config)

        optim = OptimConfig(lr=1.5e-3, warmup=200, weight_decay=0.01)
        self._run("hearing", objective, model, LoopConfig(3800, SEED, optim, ema_decay=0.998))
        model.cmvn = fbank.read_cmvn(cmvn)
        return model.eval()

    def speech_tokenizer(self) -> SpeechTokenizer:
        """The speech tokenizer, 25 codes a second, trained by CTC and mel on quantized vectors."""
        words = self._words()
        tokenizer = self._new(lambda: SpeechTokenizer(SpeechTokenizerConfig.mini()))
        config = speech_codec.TokenizerConfig(restart_until=1800)
        training = self._new(
            lambda: speech_codec.TokenizerTraining(tokenizer, words.size, config.codebook)
        )

        def objective() -> Objective:
            clips = self._clips(words, lambda wave: speech_codec.clip_log_mel(tokenizer, wave))
            return speech_codec.TokenizerObjective(training, clips, config)

        optim = OptimConfig(lr=1e-3, warmup=200, weight_decay=0.01)
        loop = LoopConfig(3000, SEED, optim, ema_decay=0.998)
        self._run("speech_tokenizer", objective, training, loop)
        return tokenizer.eval()

    def flow(self, tokenizer: SpeechTokenizer) -> Flow:
        """The flow decoder from codes to mel of the answer voice.

        It is trained on recordings, and again on them and on sentences joined from phrases.
        """
        flow = self._new(lambda: Flow(FlowConfig.mini()))

        def recorded() -> list[FlowClip]:
            lines = [u for u in self._plan() if u.voice == speech_plan.ANSWER_VOICE]
            waves = (wave for _, wave in recorded_lines(lines, self.bank / "audio"))
            return speech_flow.flow_clips(waves, tokenizer, flow)

        def objective() -> Objective:
            clips = recorded()
            speech_flow.start_at_mean(flow, clips)
            return speech_flow.FlowObjective(flow, clips, speech_flow.FlowTrainingConfig())

        def with_phrases() -> Objective:
            rng = random.Random(SEED)
            sentences = [speech_plan.sentence(rng) for _ in range(JOINED)]
            joined = speech_flow.joined_clips(sentences, dict(self._takes()), tokenizer, flow)
            clips = [*recorded(), *joined]
            return speech_flow.FlowObjective(flow, clips, speech_flow.FlowTrainingConfig())

        loop = LoopConfig(2500, SEED, OptimConfig(lr=1e-3, warmup=200), ema_decay=0.998)
        self._run("speech_flow", objective, flow, loop)
        optim = OptimConfig(lr=8e-4, warmup=30, floor=0.05)
        self._run("phrase_flow", with_phrases, flow, LoopConfig(2400, SEED, optim, ema_decay=0.998))
        return flow.eval()

    def _speech(self) -> GlmVoice:
        """The speech tokenizer with what turns its codes into sound."""
        tokenizer = self.speech_tokenizer()
        return GlmVoice(tokenizer, self.flow(tokenizer), GriffinLim())

    def encoded_speech(self, encoder: SenseVoice, tokenizer: SpeechTokenizer) -> None:
        """Encode all recordings, and the sentences spliced from their words at one speed."""

        def encode(
            name: str,
            recorded: Callable[[], RecordedLines],
            count: int,
            variants: int = len(SPEEDS),
        ) -> None:
            if not (self.out / name / "lines.jsonl").exists():
                report = partial(self._report_count, name, count)
                encode_speech(
                    recorded(), encoder, tokenizer, variants=variants, report=report
                ).save(self.out / name)

        plan = self._plan()
        encode(SPOKEN_LINES, lambda: recorded_lines(plan, self.bank / "audio"), len(plan))
        splices = partial(self._spliced_lines, SPLICES, SEED)
        encode(SPLICED_LINES, splices, sum(SPLICES.values()), variants=1)

    def lines(self) -> EncodedSpeech:
        """What `encoded_speech` wrote."""
        spoken, spliced = (EncodedSpeech.open(self.out / n) for n in (SPOKEN_LINES, SPLICED_LINES))
        return spoken + spliced

    def phrases(self) -> dict[str, Tensor]:
        """The codes of each phrase's recording."""
        tokenizer = self.speech_tokenizer()
        return {phrase: tokenizer.encode(wave) for phrase, wave in self._takes()}

    def _takes(self) -> Iterable[tuple[str, Waveform]]:
        lines = [line for line in self._every_line() if line.role == "phrase"]
        for line, wave in recorded_lines(lines, self.bank / "audio"):
            yield line.text.removesuffix(","), trim(wave, margin=PAUSE)

    def _spliced_lines(self, counts: Mapping[str, int], seed: int) -> RecordedLines:
        """Sentences spliced from recorded words; Whisper aligns the words once."""
        path = self.out / "cuts.jsonl"
        recorded = list(recorded_lines(self._plan(), self.bank / "audio"))
        if not path.exists():
            judge = WhisperJudge.open()
            cuts = {}
            starts = judge.align([(wave, line.text) for line, wave in recorded])
            for (line, _), seconds in zip(recorded, starts, strict=True):
                cuts[line.index] = seconds
                self._report_count("words aligned", len(recorded), len(cuts))
            unit_selection.save_cuts(cuts, path)
        selector = unit_selection.UnitSelector(recorded, unit_selection.load_cuts(path))
        return unit_selection.plan_spliced(selector, len(self._plan()), **counts, seed=seed)

    # -------------------------------------------------------------------------------- backbone
    def stage(self, number: int) -> Dream:
        """Train one stage, counted from 0, from the weights of those that it starts from."""
        text, one = self.text(), stages()[number]
        vocabulary = self._vocabulary(text)
        if number == 0:
            backbone = self._new(lambda: Dream(self._sizes(vocabulary)))
            generator = torch.Generator().manual_seed(SEED)
            codec = Magvit2(Magvit2Config.mini())
            every = torch.arange(codec.config.codes)[None]
            signs = codec.codes_of(every, (1, codec.config.codes))[0, :, 0].T
            init_code_embeddings(backbone, vocabulary.image, signs, scale=0.05, generator=generator)
            book = self.speech_tokenizer().codebook.weight
            init_code_embeddings(backbone, vocabulary.speech, book, scale=0.05, generator=generator)
        else:
            backbone = self.averaged(one.start or {stages()[number - 1].name: 1.0}).train()

        def objective() -> Objective:
            mixture = SceneMixture(
                one.shares,
                vocabulary,
                text,
                SceneCodes.open(self.out / "scenes.safetensors"),
                self.lines() if number else None,
                lengths=LENGTHS,
                answers=ANSWERS,
                augment=True,
                phrases=self.phrases() if one.phrase_codes else None,
            )
            return DenoisingObjective(backbone, vocabulary, mixture, one.denoising)

        self._run(one.name, objective, backbone, one.loop)
        return backbone.eval()

    def averaged(self, stages_: Mapping[str, float]) -> Dream:
        """The mean of the weights of some stages, by their shares, which sum to 1.

        A stage that learns one thing forgets part of the others; the mean of the weights before and
        after keeps most of both (Wortsman et al. 2022, arXiv 2109.01903).
        """
        mean: dict[str, Tensor] = {}
        for name, share in stages_.items():
            tensors = weights.read_tensors(self.out / name / "weights.safetensors")
            for key, tensor in tensors.items():
                part = share * tensor.float()
                mean[key] = mean[key] + part if key in mean else part
        backbone = self._new(lambda: Dream(self._sizes(self._vocabulary(self.text()))))
        weights.load_into(backbone, mean, where=f"the mean of {' and '.join(stages_)}")
        return backbone.eval()

    def assemble(self) -> OmniModel:
        """Write all parts as one model folder, out/model, in float16."""
        text, image, encoder = self.text(), self.image(), self.speech_encoder()
        suite = CodecSuite(text=text, image=image.eval(), hearing=encoder, speech=self._speech())
        vocabulary = self._vocabulary(text)
        config = ModelConfig(
            "mini",
            vocabulary,
            self._sizes(vocabulary),
            suite.config,
            GenerationConfig(LENGTHS, SAMPLING, ANSWERS, LONGEST),
        )
        model = OmniModel(config, suite, self.averaged({stages()[-1].name: 1.0}))
        model.save(self.out / "model", torch.float16)
        return model

    # ----------------------------------------------------------------------------------- inside
    def _vocabulary(self, text: TextCodec) -> Vocabulary:
        return Vocabulary(
            text_size=text.vocabulary_size,
            speech_size=SpeechTokenizerConfig.mini().codebook_size,
            image_size=Magvit2Config.mini().codes,
        )

    def _sizes(self, vocabulary: Vocabulary) -> DreamConfig:
        return DreamConfig.mini(vocabulary.size, SenseVoiceConfig.mini().dim)

    def _plan(self) -> Sequence[speech_plan.Utterance]:
        """The sentences."""
        return [line for line in self._every_line() if line.role != "phrase"]

    def _every_line(self) -> Sequence[speech_plan.Utterance]:
        path = self.bank / "plan.jsonl"
        if not path.exists():
            raise DataError(
                f"{self.bank} has no plan.jsonl; record the speech first (`make voices`)",
                field="bank",
                value=self.bank,
            )
        return speech_plan.load_plan(path)

    def _words(self) -> Words:
        return Words.of(line.text for line in self._plan() if line.split == "train")

    def _clips(self, words: Words, features: Callable[..., Tensor]) -> list[Clip]:
        recorded = recorded_lines(self._plan(), self.bank / "audio")
        return ctc.clips(recorded, words, features)

    def _new(self, make: Callable[[], M]) -> M:
        torch.manual_seed(SEED)
        return make()

    def _run(
        self, name: str, objective: Callable[[], Objective], module: nn.Module, loop: LoopConfig
    ) -> None:
        """Train a part unless its weights exist; load the averaged weights into the module."""
        folder = self.out / name
        done = folder / "weights.safetensors"
        if not done.exists():
            trainer = Trainer(objective(), loop, folder, logs=[PageLog(folder)])
            trainer.resume()
            trainer.fit(lambda step, row: self._report(name, step, loop.steps, row))
            weights.write_tensors(trainer.weights(), done)
        weights.load_into(module, weights.read_tensors(done), where=str(done))

    def _report_count(self, name: str, all_: int, n: int) -> None:
        self._report(name, n, all_, {})

    def _report(self, name: str, step: int, steps: int, row: dict[str, float]) -> None:
        if self.report:
            self.report(name, step, steps, row)
