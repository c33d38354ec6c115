"""The curve of a preset file: one point for each sampling, the faster the further left."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from scripts.tune_picture import draw

from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.evaluation.tune import Candidate, TunedPoint, tuned_preset
from omni_diffusion.tasks.presets import TunedSampling


def test_every_sampling_is_a_point() -> None:
    names = ("default", "10 steps", "5 < 6 steps")
    tried = [Candidate(name, TunedSampling(SamplingParams())) for name in names]
    points = [
        TunedPoint(n, 0.9, 0.04, 50, s, s, s) for n, s in zip(names, (4, 1, 0.5), strict=True)
    ]
    svg = draw(tuned_preset("t2i", points[1], tried, points, {"judge": "t2i"}))
    tree = ElementTree.fromstring(svg)
    circles = [one for one in tree.iter() if one.tag.endswith("circle")]
    across = [float(one.attrib["cx"]) for one in circles]
    assert across == sorted(across, reverse=True)
    assert [one.attrib["fill"] == "white" for one in circles] == [True, False, True]
    assert "5 &lt; 6 steps" in svg
    assert re.search(r"50 samples", svg)
