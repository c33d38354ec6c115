"""Costly answers do not starve cheap ones."""

from dataclasses import dataclass

from omni_diffusion.serving.admission import Admission, lane_of
from omni_diffusion.vocab import Kind


@dataclass(eq=False)
class Ask:
    lane: Kind
    number: int = 0


def taken(admission: Admission[Ask]) -> list[Ask]:
    found = []
    while (ask := admission.take()) is not None:
        found.append(ask)
    return found


def test_the_lane_is_that_of_the_costliest_medium() -> None:
    assert lane_of(("text", "speech")) == "speech"
    assert lane_of(("text", "image")) == "image"
    assert lane_of(()) == "text"


def test_costlier_lanes_leave_a_slot_to_each_cheaper_one() -> None:
    admission: Admission[Ask] = Admission(4)
    for _ in range(9):
        admission.add(Ask("image"))
    assert len(taken(admission)) == 2
    for _ in range(9):
        admission.add(Ask("speech"))
    assert [ask.lane for ask in taken(admission)] == ["speech"]
    admission.add(text := Ask("text"))
    assert taken(admission) == [text]
    admission.add(Ask("text"))
    assert taken(admission) == []  # the batch is full


def test_text_alone_takes_every_slot() -> None:
    admission: Admission[Ask] = Admission(4)
    for _ in range(9):
        admission.add(Ask("text"))
    assert len(taken(admission)) == 4


def test_one_slot_serves_every_lane() -> None:
    admission: Admission[Ask] = Admission(1)
    admission.add(Ask("image"))
    (first,) = taken(admission)
    admission.add(text := Ask("text"))
    assert taken(admission) == []
    admission.release(first)
    assert taken(admission) == [text]


def test_lanes_share_by_weight_and_keep_their_order() -> None:
    admission: Admission[Ask] = Admission(2)
    for number in range(40):
        for lane in ("text", "speech", "image"):
            admission.add(Ask(lane, number))  # type: ignore[arg-type]
    order = []
    for _ in range(28):
        ask = admission.take()
        assert ask is not None
        order.append(ask)
        admission.release(ask)
    counts = {lane: [a.number for a in order if a.lane == lane] for lane in ("text", "image")}
    assert len(counts["text"]) == 16
    assert len(counts["image"]) == 4
    assert counts["text"] == sorted(counts["text"])


def test_an_idle_lane_gains_no_credit() -> None:
    admission: Admission[Ask] = Admission(1)
    for _ in range(100):
        admission.add(Ask("text"))
    for _ in range(50):
        ask = admission.take()
        assert ask is not None
        admission.release(ask)
    for _ in range(50):
        admission.add(Ask("image"))
    lanes = []
    for _ in range(10):
        ask = admission.take()
        assert ask is not None
        lanes.append(ask.lane)
        admission.release(ask)
    assert lanes.count("image") <= 3


def test_what_is_dropped_is_not_taken() -> None:
    admission: Admission[Ask] = Admission(4)
    admission.add(first := Ask("text"))
    admission.add(second := Ask("text"))
    assert admission.drop(first)
    assert not admission.drop(first)
    assert taken(admission) == [second]
