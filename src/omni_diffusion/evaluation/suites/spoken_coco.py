"""SpokenCOCO: COCO captions read aloud, from which pictures are painted; CLIP-T and CLIP-I.

The paper's own recordings are not public and it does not say who speaks. SpokenCOCO has one reader
for every caption; the first caption of each photograph is taken.
"""

from __future__ import annotations

from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.evaluation.suites.coco import CAPTIONS, PaintedCaptions
from omni_diffusion.evaluation.suites.items import (
    Item,
    SuiteOptions,
    data_path,
    read_data_json,
    read_rows,
    wrong_data,
)

SPOKEN_FILE = "SpokenCOCO_val.json"


def spoken_coco_s2i(entry: SuiteEntry, options: SuiteOptions) -> PaintedCaptions:
    """The first caption of each of the first 10,000 photographs."""
    path = data_path(entry, options.data, SPOKEN_FILE, f"SpokenCOCO/{SPOKEN_FILE}")
    content = read_data_json(entry, path)
    if not isinstance(content, dict):
        raise wrong_data(entry, path, "an object with the list data")
    items = []
    for row in read_rows(entry, path, ("image", "captions"), content.get("data"))[:CAPTIONS]:
        caption = read_rows(entry, path, ("text", "uttid", "wav"), row["captions"])[0]
        recording = data_path(entry, path.parent, caption["wav"])
        photograph = data_path(entry, options.data, row["image"], f"coco/{row['image']}")
        facts = {
            "id": caption["uttid"],
            "expected": caption["text"].strip(),
            "photograph": photograph.relative_to(options.data).as_posix(),
        }
        items.append(Item(facts, speech=recording))
    return PaintedCaptions(entry, options, "s2i", items)
