"""COCO captions: pictures painted from them, judged by CLIP.

CLIP-T is the cosine of picture and caption, CLIP-I that of the picture and the photograph which the
caption describes. The paper takes 10,000 captions and does not say which; here they are drawn with
seed 0, one a photograph.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from omni_diffusion.conversation import Image, Part
from omni_diffusion.evaluation.clip import similarity
from omni_diffusion.evaluation.scoring import Score, Scores, Unit
from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.evaluation.suites.items import (
    FileBenchmark,
    Item,
    SuiteOptions,
    data_path,
    read_data_json,
    read_rows,
    wrong_data,
)
from omni_diffusion.media import Picture

CAPTIONS = 10_000
CAPTION_FILE = "annotations/captions_val2014.json"


class PaintedCaptions(FileBenchmark):
    """The value is CLIP-T, a detail CLIP-I; an answer without a picture scores 0 in both."""

    unit: Unit = "cosine"

    def score(self, sample: Item, answer: Sequence[Part]) -> Scores:
        """Cosines of the picture with the caption and with the photograph."""
        image = next((part for part in answer if isinstance(part, Image)), None)
        if image is None:
            return {"value": Score(0, 1), "clip_i": Score(0, 1)}
        judge = self.pictures()
        made = judge.embed_picture(image.picture)
        photograph = data_path(self.entry, self.options.data, sample.facts["photograph"])
        caption = judge.embed_text(sample.facts["expected"])
        real = judge.embed_picture(Picture.read(photograph))
        return {
            "value": Score(similarity(made, caption), 1),
            "clip_i": Score(similarity(made, real), 1),
        }


def coco_t2i(entry: SuiteEntry, options: SuiteOptions) -> PaintedCaptions:
    """10,000 captions of val2014."""
    path = data_path(entry, options.data, CAPTION_FILE, f"coco/{CAPTION_FILE}")
    content = read_data_json(entry, path)
    if not isinstance(content, dict):
        raise wrong_data(entry, path, "an object with images and annotations")
    images = read_rows(entry, path, ("id", "file_name"), content.get("images"))
    captions = read_rows(entry, path, ("id", "image_id", "caption"), content.get("annotations"))
    names = {image["id"]: image["file_name"] for image in images}
    order = sorted(captions, key=lambda row: row["id"])
    random.Random(0).shuffle(order)
    chosen = list({row["image_id"]: row for row in reversed(order)}.values())[::-1][:CAPTIONS]
    folder = data_path(entry, options.data, "val2014", "coco/val2014").relative_to(options.data)
    items = []
    for row in chosen:
        text = row["caption"].strip()
        photograph = f"{folder.as_posix()}/{names[row['image_id']]}"
        facts = {"id": str(row["id"]), "expected": text, "photograph": photograph}
        items.append(Item(facts, text))
    return PaintedCaptions(entry, options, "t2i", items)
