"""The engine's thread: cancel, deadline, queue, faults, drain."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model, tone

from omni_diffusion.engine.ask import Inputs, ask
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request
from omni_diffusion.serving.faults import ApiError
from omni_diffusion.serving.feed import Feed
from omni_diffusion.serving.limits import Limits
from omni_diffusion.serving.metrics import Metrics
from omni_diffusion.serving.worker import Ticket, Worker

LONG = 400  # tokens, and so steps: it runs until it is ended


def chat(tokens: int = 8, **overrides: Any) -> Request:
    return ask("chat", Inputs("two dogs"), max_tokens=tokens, **overrides)


@asynccontextmanager
async def running(limits: Limits | None = None, max_batch: int = 4) -> AsyncIterator[Worker]:
    worker = Worker(tiny_model(), limits or Limits(), Metrics(), max_batch=max_batch)
    try:
        yield worker
    finally:
        worker.close()
        assert not worker.alive


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))  # type: ignore[arg-type]


async def idle(worker: Worker) -> None:
    while worker._works or worker._tickets or worker._accepted:
        await asyncio.sleep(0.01)


def test_answers_are_those_of_the_engine_alone() -> None:
    requests = [chat(seed=seed, temperature=1.0) for seed in range(6)]
    alone = Engine(tiny_model(), max_batch=1)
    expected = [alone.run([request])[0].parts for request in requests]

    async def scenario() -> None:
        async with running() as worker:
            tickets = [await worker.submit(request) for request in requests]
            results = await asyncio.gather(*(ticket.result() for ticket in tickets))
            assert [result.parts for result in results] == expected
            await idle(worker)

    run(scenario)


def test_a_cancelled_request_leaves_before_the_next_step() -> None:
    async def scenario() -> None:
        async with running() as worker:
            feed = Feed()
            ticket = await worker.submit(chat(LONG), feed)
            async for update in feed:
                if update.step >= 1:
                    ticket.cancel()
                    break
            with pytest.raises(ApiError) as caught:
                await ticket.result()
            assert caught.value.code == "cancelled"
            await idle(worker)
            assert worker._engine.pending == 0

    run(scenario)


def test_the_end_of_who_waits_ends_the_request() -> None:
    async def scenario() -> None:
        async with running() as worker:
            ticket = await worker.submit(chat(LONG))
            waiting = asyncio.create_task(ticket.result())
            await asyncio.sleep(0.05)
            waiting.cancel()
            await idle(worker)

    run(scenario)


def test_a_deadline_ends_a_request() -> None:
    async def scenario() -> None:
        async with running(Limits(deadline=0.2)) as worker:
            ticket = await worker.submit(chat(LONG))
            with pytest.raises(ApiError) as caught:
                await ticket.result()
            assert caught.value.status == 504
            await idle(worker)

    run(scenario)


def test_a_full_queue_says_when_to_come_again() -> None:
    async def scenario() -> None:
        async with running(Limits(queue=2), max_batch=1) as worker:
            tickets = [await worker.submit(chat(LONG)) for _ in range(3)]
            with pytest.raises(ApiError) as caught:
                await worker.submit(chat())
            assert caught.value.status == 429
            assert int(caught.value.headers["Retry-After"]) >= 1
            for ticket in tickets:
                ticket.cancel()
            await idle(worker)
            assert (await (await worker.submit(chat())).result()).parts

    run(scenario)


def test_a_failing_request_fails_alone() -> None:
    async def scenario() -> None:
        async with running() as worker:
            bad = await worker.submit(ask("asr", Inputs(speech=tone(100.0))))
            good = await worker.submit(chat())
            assert (await good.result()).parts
            with pytest.raises(Exception, match="the speech lasts 100 s"):
                await bad.result()
            await idle(worker)

    run(scenario)


def test_after_a_failure_of_the_engine_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running() as worker:
            step = Engine.step

            def fail(engine: Engine, *, block: bool = True) -> list[str]:
                monkeypatch.setattr(Engine, "step", step)
                raise RuntimeError("something broke")

            monkeypatch.setattr(Engine, "step", fail)
            ticket = await worker.submit(chat())
            with pytest.raises(ApiError) as caught:
                await ticket.result()
            assert caught.value.status == 500
            assert (await (await worker.submit(chat())).result()).parts

    run(scenario)


def test_draining_finishes_what_runs_and_takes_nothing_more() -> None:
    async def scenario() -> None:
        async with running() as worker:
            ticket = await worker.submit(chat(20))
            draining = asyncio.create_task(worker.drain(30))
            await asyncio.sleep(0)
            with pytest.raises(ApiError) as caught:
                await worker.submit(chat())
            assert caught.value.status == 503
            assert (await ticket.result()).parts
            await draining

    run(scenario)


@pytest.mark.slow
def test_a_long_text_is_spoken_in_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    text = "a red apple on a blue background. two dogs to the left of a tree. " * 2
    request = ask("tts", Inputs(text), steps=2)

    async def scenario() -> None:
        async with running() as worker:
            worker.model.config = replace(
                worker.model.config, generation=replace(model.generation, longest=150)
            )
            feed = Feed(every=True)
            ticket: Ticket = await worker.submit(request, feed)
            assert len(ticket.passages) > 1
            numbers = [u.passage async for u in feed if u.result is not None]
            result = await ticket.result()
            assert sorted(numbers) == list(range(len(ticket.passages)))
            assert result.notes == (f"spoken in {len(numbers)} passages",)

    run(scenario)


def test_pictures_do_not_keep_a_text_waiting() -> None:
    """Pictures fill the queue before it comes; it is answered before the second of them."""

    async def scenario() -> None:
        async with running(max_batch=2) as worker:
            pictures = [await worker.submit(ask("t2i", Inputs("a tree"))) for _ in range(4)]
            text = await worker.submit(chat(1, steps=1))
            await text.result()
            assert sum(picture.future.done() for picture in pictures) <= 1
            await asyncio.gather(*(picture.result() for picture in pictures))

    run(scenario)


def test_the_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()

    async def scenario() -> None:
        async with running() as worker:
            await (await worker.submit(chat(temperature=1.0))).result()

    run(scenario)
    assert torch.equal(before, torch.get_rng_state())
