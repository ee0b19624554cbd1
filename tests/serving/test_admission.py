"""Places are given to clients in turn."""

from __future__ import annotations

import asyncio

import pytest

from refrag_components.serving.admission import Admission, CrowdedError


class Visit:
    """A request that holds its place until it is told to leave."""

    def __init__(self, admission: Admission, client: str, order: list[str]) -> None:
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._stay(admission, client, order))

    async def _stay(self, admission: Admission, client: str, order: list[str]) -> None:
        async with admission.slot(client):
            order.append(client)
            await self.leave.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_client_waits_for_itself_not_others_for_it() -> None:
    admission, order = Admission(1, 10), []
    visits = []
    for client in ("a", "a", "a", "b", "a", "c"):
        visits.append(Visit(admission, client, order))
        await settle()
    assert (admission.running, admission.waiting) == (1, 5)
    for visit in (visits[0], visits[1], visits[3], visits[5], visits[2], visits[4]):
        visit.leave.set()
        await settle()
    assert order == ["a", "a", "b", "c", "a", "a"]
    assert (admission.running, admission.waiting) == (0, 0)


async def test_too_many_are_sent_away_at_once() -> None:
    admission, order = Admission(1, 1), []
    visits = [Visit(admission, "a", order), Visit(admission, "a", order)]
    await settle()
    with pytest.raises(CrowdedError):
        async with admission.slot("b"):
            pass
    for visit in visits:
        visit.leave.set()
    await asyncio.gather(*(visit.task for visit in visits))
    assert (admission.running, admission.waiting) == (0, 0)


async def test_who_gives_up_leaves_no_gap() -> None:
    admission, order = Admission(1, 10), []
    holder, waiter, other = (Visit(admission, client, order) for client in "abc")
    await settle()
    waiter.task.cancel()
    holder.leave.set()
    await settle()
    assert order == ["a", "c"]
    other.task.cancel()
    await settle()
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_place_that_comes_with_the_cancellation_is_handed_on() -> None:
    admission, order = Admission(1, 10), []
    holder, waiter, other = (Visit(admission, client, order) for client in "abc")
    await settle()
    holder.leave.set()
    await asyncio.sleep(0)  # the holder leaves and the waiter's turn has come
    waiter.task.cancel()
    await settle()
    other.leave.set()
    await settle()
    assert order[-1] == "c"
    assert (admission.running, admission.waiting) == (0, 0)
