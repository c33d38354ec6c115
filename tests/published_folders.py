"""Tiny folders of random weights in the published layouts, and the published text tokenizer.

`write_published` writes all folders of Omni-Diffusion and Dream-7B with their codecs.

`published_text` returns the published byte-pair tokenizer with the merges that the stored prompts
and strings need. An applied merge is always the lowest-ranked one that fits, so a missing merge
changes the ids only of texts that apply it. The whole vocabulary is not part of this repository;
`codecs/make_qwen_merges.py` extracts the part that is. Placeholders take the other ids, so the
codec has as many tokens as the published one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from scripts.random_checkpoint import with_weight_norm
from tests.tiny import FLOW, SPEECH_TOKENIZER, tiny_model
from torch import Tensor

from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.glm_voice.codec import GlmVoice
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig
from omni_diffusion.codecs.sensevoice import OMNI_PREFIX
from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.io import config as configs
from omni_diffusion.io import weights
from omni_diffusion.models import upstream
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.models.upstream import DREAM_TOKENS, CodecConfigs, CodecSources

MERGES = Path(__file__).parent / "codecs" / "qwen_merges.json"
TOKENS = 151_643
BF16 = torch.bfloat16
HIFT = HiFTConfig(base_channels=16, f0_channels=8)
FILLERS = 9  # rows of the tiny Dream without a token
EMBEDDED = "model.embed_tokens.weight"


@dataclass(frozen=True)
class PublishedFolders:
    """The folders below `root`, and the model that they were written from."""

    root: Path
    model: OmniModel

    @property
    def omni(self) -> Path:
        return self.root / "omni"

    @property
    def dream(self) -> Path:
        return self.root / "dream"

    @property
    def sources(self) -> CodecSources:
        codecs = self.model.codecs
        return CodecSources(
            image_codec=self.root / "magvitv2",
            speech_tokenizer=self.root / "tokenizer",
            speech_decoder=self.root / "decoder",
            speech_encoder=self.root / "sensevoice",
            sizes=CodecConfigs(codecs.image.config, codecs.hearing.config, FLOW, HIFT),
        )

    def open(self, folder: Path | None = None, **changes: object) -> OmniModel:
        sources = replace(self.sources, **changes)  # type: ignore[arg-type]
        return OmniModel.from_pretrained(folder or self.omni, codec_sources=sources)


def write_published(root: Path) -> PublishedFolders:
    """Write all folders below `root`."""
    root.mkdir(exist_ok=True)
    made = PublishedFolders(root, published_model())
    write_omni(made)
    write_dream(made)
    write_codecs(made)
    return made


def published_model() -> OmniModel:
    """The tiny model with weights that bfloat16 holds exactly, and with a HiFT vocoder."""
    tiny = tiny_model()
    speech = GlmVoice(tiny.codecs.speech.tokenizer, tiny.codecs.speech.flow, HiFT(HIFT).eval())
    with torch.no_grad():
        for module in (tiny.backbone, tiny.codecs.hearing):
            for weight in module.parameters():
                weight.copy_(weight.to(BF16))
    codecs = CodecSuite(tiny.codecs.text, tiny.codecs.image, tiny.codecs.hearing, speech)
    return OmniModel(tiny.config, codecs, tiny.backbone)


def write_omni(made: PublishedFolders) -> None:
    tensors = made.model.backbone.state_dict()
    for name, tensor in made.model.codecs.hearing.state_dict().items():
        tensors[OMNI_PREFIX + name] = tensor
    tensors[f"{OMNI_PREFIX}ctc.ctc_lo.weight"] = torch.zeros(5, 16)  # no module reads these two
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    vocabulary = made.model.vocabulary
    ids = range(vocabulary.specials.start, vocabulary.size)
    write_backbone(made, made.omni, tensors, {vocabulary.token(id): id for id in ids}, len(ids))


def write_dream(made: PublishedFolders) -> None:
    start = made.model.vocabulary.text_size
    named = start + len(DREAM_TOKENS)
    tensors = made.model.backbone.state_dict()
    tensors = {name: t for name, t in tensors.items() if "audio_projection" not in name}
    for name in (EMBEDDED, "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name][:named], torch.zeros(FILLERS, 32)])
    added = {token: id for id, token in enumerate(DREAM_TOKENS, start)}
    write_backbone(made, made.dream, tensors, added, len(added) + FILLERS)


def write_backbone(
    made: PublishedFolders,
    folder: Path,
    tensors: dict[str, Tensor],
    added: dict[str, int],
    more: int,
) -> None:
    folder.mkdir()
    tensors = {name: tensor.to(BF16) for name, tensor in tensors.items()}
    weights.write_tensors(tensors, folder / "model.safetensors", max_shard_bytes=20_000)
    made.model.codecs.text.save(folder / "whole.json")
    bpe = json.loads((folder / "whole.json").read_text())["model"]
    (folder / "whole.json").unlink()
    write_json(folder / "vocab.json", bpe["vocab"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    write_json(folder / "added_tokens.json", added)
    sizes = made.model.config.backbone
    write_json(
        folder / "config.json",
        {
            "architectures": ["DreamModel"],
            "model_type": "Dream",
            "hidden_act": "silu",
            "hidden_size": sizes.hidden_size,
            "intermediate_size": sizes.intermediate_size,
            "num_hidden_layers": sizes.num_layers,
            "num_attention_heads": sizes.num_heads,
            "num_key_value_heads": sizes.num_kv_heads,
            "max_position_embeddings": sizes.max_positions,
            "mask_token_id": added["<|mask|>"],
            "pad_token_id": added["<|endoftext|>"],
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": len(bpe["vocab"]) + more,
        },
    )


def write_codecs(made: PublishedFolders) -> None:
    codecs, root = made.model.codecs, made.root
    for name in ("magvitv2", "tokenizer", "decoder", "sensevoice"):
        (root / name).mkdir()
    tables = {"quantize.embedding": torch.zeros(16, 4), "quantize.power_vals": torch.arange(4)}
    image = codecs.image.state_dict() | tables
    weights.write_tensors(image, root / "magvitv2/pytorch_model.safetensors")
    count, width = SPEECH_TOKENIZER.codebook_size, SPEECH_TOKENIZER.d_model
    sums = {"ema_count": torch.zeros(count), "ema_weight": torch.zeros(count, width)}
    tokenizer = codecs.speech.tokenizer.state_dict() | sums
    weights.write_tensors(tokenizer, root / "tokenizer/model.safetensors")
    sizes = configs.to_dict(SPEECH_TOKENIZER)
    stated = {theirs: sizes[ours] for ours, theirs in upstream.TOKENIZER_FIELDS.items()}
    write_json(
        root / "tokenizer/config.json",
        {"model_type": "whisper", "encoder_layers": 32, "pooling_type": "avg", **stated},
    )
    torch.save(codecs.speech.flow.state_dict(), root / "decoder/flow.pt")
    vocoder = codecs.speech.vocoder
    assert isinstance(vocoder, HiFT)
    torch.save(with_weight_norm(vocoder.state_dict()), root / "decoder/hift.pt")
    (root / "decoder/config.yaml").write_text("!!python/object/apply:os.abort []")
    head = {"ctc.ctc_lo.weight": torch.zeros(5, 16), "ctc.ctc_lo.bias": torch.zeros(5)}
    torch.save({"state_dict": codecs.hearing.state_dict() | head}, root / "sensevoice/model.pt")
    assert codecs.hearing.cmvn is not None
    fbank.write_cmvn(codecs.hearing.cmvn, root / "sensevoice/am.mvn")


def write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data))


def published_text(folder: Path) -> TextCodec:
    """The tokenizer, opened from the published pair of files, which are written to `folder`."""
    stored = json.loads(MERGES.read_text(encoding="utf-8"))
    vocab = {letter: id for id, letter in enumerate(stored["bytes"])}
    merges = ["#version: 0.2"]
    for row in stored["merges"]:
        id, left, right = row.split(" ")
        vocab[left + right] = int(id)
        merges.append(f"{left} {right}")
    vocab |= {f"<{id}>": id for id in set(range(TOKENS)).difference(vocab.values())}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    return TextCodec.from_bpe(folder / "vocab.json", folder / "merges.txt")
