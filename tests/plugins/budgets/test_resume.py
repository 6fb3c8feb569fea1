"""A process may end at any moment: account and log of its runs agree when they go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import pytest
from kaizen import (
    BaseAgent,
    Kernel,
    ModelReply,
    ModelRequest,
    StoredEntry,
    ToolUse,
    tool,
)
from kaizen.runlog import Noted, Reserved, Settled, decode
from kaizen.testing import MemoryCheckpointStore, ModelPlugin
from kaizen_budgets import (
    Amounts,
    Balance,
    Budget,
    Ledger,
    MemoryLedger,
    Reservation,
    Settlement,
    SpendLimits,
    SqliteLedger,
    _sqlite,
)

from .conftest import PricedModel, used

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True)
class Image:
    """What a disk holds at one moment.

    Attributes:
        logs: The logs of all runs.
        ledger: The file of the ledger.
        charged: What the provider has charged by then.
    """

    logs: dict[str, list[StoredEntry]]
    ledger: bytes
    charged: Decimal

    @property
    def ended(self) -> bool:
        """Whether the outer run has come to its end."""
        return any(
            log[-1].type == "run_ended" and decode(log[0]).agent_id == "outer"  # type: ignore[attr-defined]
            for log in self.logs.values()
        )


class Worker(PricedModel):
    """Asks for a tool, then answers, whichever process asks."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.requests.append(request)
        self.charged += Decimal("0.002")
        told = any(each.role == "tool" for each in request.messages)
        uses = (
            ()
            if told or not request.tools
            else (ToolUse(id="1", name="work", arguments={}),)
        )
        return ModelReply(
            text="" if uses else "done",
            tool_uses=uses,
            usage=used(),
            cost_usd=Decimal("0.002"),
        )


class Disk:
    """Keeps an image of every moment at which something was written."""

    def __init__(self, ledger: Path, provider: PricedModel) -> None:
        self.images: list[Image] = []
        self.store = MemoryCheckpointStore()
        self._ledger = ledger
        self._provider = provider

    def look(self) -> None:
        image = b""
        if self._ledger.exists():
            connection = sqlite3.connect(self._ledger)
            image = connection.serialize()
            connection.close()
        logs = {run_id: list(log) for run_id, log in self.store._logs.items()}
        self.images.append(Image(logs, image, self._provider.charged))


class WatchedStore(MemoryCheckpointStore):
    def __init__(self, looked: Callable[[], None]) -> None:
        super().__init__()
        self._looked = looked

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        await super().append(run_id, entries, token=token)
        self._looked()


class WatchedLedger(SqliteLedger):
    def __init__(self, path: Path, looked: Callable[[], None]) -> None:
        super().__init__(path)
        self._looked = looked

    async def reserve(self, *arguments: Any, **options: Any) -> Reservation:
        made = await super().reserve(*arguments, **options)
        self._looked()
        return made

    async def settle(self, reservation_id: str, amounts: Amounts) -> Settlement:
        done = await super().settle(reservation_id, amounts)
        self._looked()
        return done


def agents(
    kernel: Kernel, store: MemoryCheckpointStore, ledger: Ledger
) -> tuple[BaseAgent, BaseAgent]:
    """Return an agent whose tool asks another agent, and both have a budget."""
    limits = SpendLimits(
        Budget(usd="1", name="run"),
        ledger=ledger,
        tool_costs={"work": "0.01"},
    )
    options: dict[str, Any] = {"kernel": kernel, "store": store, "hooks": [limits]}
    inner = BaseAgent(signature="q -> answer", agent_id="inner", **options)

    @tool(danger="safe", idempotent=True)
    async def work() -> str:
        """Work."""
        return str((await inner.run(q="?")).answer)

    outer = BaseAgent(signature="q -> answer", tools=[work], agent_id="outer", **options)
    return outer, inner


def a_kernel(provider: PricedModel) -> Kernel:
    return Kernel(
        plugins=[ModelPlugin(provider)],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    )


async def images_of(path: Path) -> list[Image]:
    """Carry a run out to its end, and return the image of every moment."""
    provider = Worker()
    disk = Disk(path, provider)
    disk.store = WatchedStore(disk.look)
    async with WatchedLedger(path, disk.look) as ledger, a_kernel(provider) as kernel:
        await agents(kernel, disk.store, ledger)[0].run(q="?")
    return disk.images


async def logged(store: MemoryCheckpointStore) -> tuple[Amounts, set[str], list[str]]:
    """Return what the logs of all runs say: what was spent, reserved and settled."""
    total, reserved, settled = Amounts(), set(), []
    for record in await store.runs():
        for stored in await store.read(record.run_id):
            match decode(stored):
                case Reserved(reservation_id=name):
                    reserved.add(name)
                case Settled(reservation_id=name):
                    settled.append(name)
                case Noted(source="budgets", kind="settled", data=data):
                    total += Amounts.from_json(data["settled"])
    return total, reserved, settled


async def resumed(
    image: Image, ledger: Ledger
) -> tuple[Balance, MemoryCheckpointStore, Decimal]:
    """Go on from an image; return the account, the logs, and what was charged in all."""
    provider, store = Worker(), MemoryCheckpointStore()
    for run_id, log in image.logs.items():
        await store.append(run_id, log)
    async with a_kernel(provider) as kernel:
        outer, _ = agents(kernel, store, ledger)
        (record,) = await store.runs(agent_id="outer")
        await outer.resume(record.run_id)
    (balance,) = [each for each in await ledger.balances() if record.run_id in each.key]
    return balance, store, image.charged + provider.charged


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_account_and_log_agree_wherever_the_process_ended(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = await images_of(tmp_path / "budgets.db")
    # What was reserved, and never logged, ends with its lease.
    now = monotonic()
    monkeypatch.setattr(_sqlite, "monotonic", lambda: now + 61)
    unfinished = [each for each in images if each.logs and not each.ended]
    assert len(unfinished) > 15
    for number, image in enumerate(unfinished):
        path = anyio.Path(tmp_path / f"{number}.db")
        await path.write_bytes(image.ledger)
        async with SqliteLedger(path) as file:
            ledger: Ledger = file if kind == "sqlite" else MemoryLedger()

            balance, store, charged = await resumed(image, ledger)

        total, reserved, settled = await logged(store)
        assert balance.spent == total, number
        assert not balance.reserved, number
        assert sorted(settled) == sorted(reserved), number
        # A tool that was cut off is paid for again; of a reply that was, nobody knows.
        assert charged + Decimal("0.008") <= total.usd <= charged + Decimal("0.02")
