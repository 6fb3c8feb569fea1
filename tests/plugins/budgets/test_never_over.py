"""The proof: whatever happens at once, and whenever it stops, nobody spends too much.

- 4 processes × 50 tasks against one budget of $1.00, with calls that charge up to what was
  reserved: 1,000 trials, in twenty parts.
- Processes that are killed at random moments leave nothing reserved behind.
- 1,000 schedules × 200 calls at once of nested agents in one process, in as many.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from random import Random
from time import monotonic

import anyio
import pytest
from kaizen import (
    AgentInterrupted,
    BaseAgent,
    BaseProvider,
    Kernel,
    Message,
    ModelError,
    ModelProfile,
    ModelReply,
    ModelRequest,
    ModelSettings,
    Run,
    ToolUse,
    Usage,
    tool,
)
from kaizen.runlog import Settled
from kaizen.testing import ModelPlugin
from kaizen_budgets import (
    Balance,
    Budget,
    MemoryLedger,
    SpendLimits,
    SqliteLedger,
    _sqlite,
    metered,
)

from .spender import CENT, LEASE_S

SPENDER = Path(__file__).with_name("spender.py")
PROCESSES = 4
TRIALS = SCHEDULES = int(os.environ.get("KAIZEN_TRIALS", "1000"))
"""How often each is tried; fewer where the same is tried elsewhere anyway."""
PARTS = 20
LIMIT = 100 * CENT


class Spender:
    """One process that spends."""

    def __init__(self, path: Path, lost: str = "release") -> None:
        self.process = subprocess.Popen(
            [sys.executable, SPENDER, path, lost],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.hear() == "ready"

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self, *, kill: bool = False) -> None:
        if kill:
            self.process.send_signal(signal.SIGKILL)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@contextmanager
def spenders(path: Path, count: int) -> Iterator[list[Spender]]:
    with ExitStack() as stack:
        started = [Spender(path) for _ in range(count)]
        for each in started:
            stack.callback(each.end)
        yield started


def look(path: Path, lost: str = "release") -> dict[str, Balance]:
    async def read() -> dict[str, Balance]:
        async with SqliteLedger(path, lost=lost) as ledger:  # type: ignore[arg-type]
            return {each.key: each for each in await ledger.balances()}

    return anyio.run(read)


@pytest.mark.parametrize("part", range(PARTS))
def test_four_processes_with_fifty_tasks_each_never_pass_one_dollar(
    tmp_path: Path, part: int
) -> None:
    path = tmp_path / "budgets.db"
    keys = [f"trial-{part}-{number}" for number in range(TRIALS // PARTS)]
    charged: dict[str, int] = {}

    with spenders(path, PROCESSES) as processes:
        for key in keys:
            for place, each in enumerate(processes):
                each.say(f"trial {key} {key}-{place}")
            charged[key] = sum(int(each.hear()) for each in processes)
    balances = look(path)

    assert {key: balances[key].spent.units[0] for key in keys} == charged
    assert max(charged.values()) <= LIMIT
    assert min(charged.values()) > LIMIT * 0.95
    assert not any(each.reserved for each in balances.values())


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_process_leaves_no_reservation_open_past_its_lease(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, random = tmp_path / "budgets.db", Random(seed)
    killed = Spender(path)
    killed.say(f"forever key {seed}")
    grown_to(tmp_path / "charged", random.randrange(10, 2_000), killed)
    killed.end(kill=True)
    monkeypatch.setattr(_sqlite, "is_gone", lambda _owner: False)  # only time may tell
    before = look(path)["key"]
    now = monotonic()
    monkeypatch.setattr(_sqlite, "monotonic", lambda: now + LEASE_S)

    after = look(path)["key"]

    assert before.spent.units[0] + before.reserved.units[0] <= LIMIT
    assert not after.reserved
    assert after.spent == before.spent


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_do_not_let_the_bill_pass_the_limit(
    tmp_path: Path, seed: int
) -> None:
    path, random, bill = tmp_path / "budgets.db", Random(seed), tmp_path / "charged"
    kills = 0
    while True:
        each = Spender(path, "charge")
        each.say(f"forever key {seed}-{kills}")
        size = bill.stat().st_size if bill.exists() else 0
        if kills == 5 or not grown_to(bill, size + random.randrange(10, 1_000), each):
            assert each.hear() == "spent"
            each.end()
            break
        each.end(kill=True)
        kills += 1

    balance = look(path, "charge")["key"]
    charged = sum(map(int, bill.read_text(encoding="ascii").split()))
    assert charged <= balance.spent.units[0] <= LIMIT
    assert not balance.reserved
    assert kills


def grown_to(bill: Path, size: int, writer: Spender) -> bool:
    """Wait until a file has grown; say whether it has before its writer was through."""
    until, heard = monotonic() + 30, writer.process.stdout
    assert heard is not None
    while not bill.exists() or bill.stat().st_size < size:
        assert monotonic() < until
        if select.select([heard], [], [], 0.002)[0]:
            return False
    return True


class Charging(BaseProvider):
    """A model whose replies cost whatever they may, and take as many turns of the loop."""

    name = "charging"

    def __init__(self, random: Random) -> None:
        self.random = random
        self.charged = Decimal(0)
        self.calls = 0

    def describe(self, model: str) -> ModelProfile:
        return ModelProfile(
            name=model or self.name,
            max_output_tokens=1_000,
            input_usd_per_million=Decimal(0),
            output_usd_per_million=Decimal(10),
        )

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.calls += 1
        for _ in range(self.random.randrange(3)):
            await anyio.lowlevel.checkpoint()
        if self.random.random() < 0.02:
            raise ModelError(self.name, "refused")
        longest = min(request.settings.max_tokens or 1_000, 1_000)
        tokens = longest if self.random.random() < 0.5 else self.random.randint(1, longest)
        self.charged += (cost := Decimal(tokens) / 100_000)
        uses: tuple[ToolUse, ...] = ()
        if request.tools and request.cycle < 3:
            uses = tuple(ToolUse(id=f"c{i}", name="delegate", arguments={}) for i in "ab")
        return ModelReply(
            text='{"answer": "yes"}',
            tool_uses=uses,
            usage=Usage(requests=1, input_tokens=1, output_tokens=tokens),
            cost_usd=cost,
        )


GUARDS = 11
RUNS = 4
SESSION = Decimal("0.60")
EACH_RUN = Decimal("0.25")


class Schedules:
    """Nested agents that make some 200 calls at once, in an order that a seed decides."""

    def __init__(self, kernel: Kernel, provider: Charging) -> None:
        self.provider = provider
        self.ledger = MemoryLedger()
        limits = SpendLimits(
            Budget(usd=SESSION, scope="session", name="session", warn_at=()),
            Budget(usd=EACH_RUN, name="run", warn_at=()),
            ledger=self.ledger,
        )
        self._guard = metered(provider)
        self._runs: list[Run] = []

        @tool(danger="safe")
        async def delegate() -> str:
            """Let others work."""
            async with anyio.create_task_group() as tasks:
                for _ in range(GUARDS):
                    tasks.start_soon(self._ask_guard)
                tasks.start_soon(self._ask, self._inner)
                if self.provider.random.random() < 0.1:
                    await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
            return "done"

        self._inner = BaseAgent(signature="q -> answer", kernel=kernel, hooks=[limits])
        self._outer = BaseAgent(
            signature="q -> answer", kernel=kernel, hooks=[limits], tools=[delegate]
        )

    async def _ask_guard(self) -> None:
        longest = ModelSettings(max_tokens=self.provider.random.randint(1, 1_500))
        asked = (Message(role="user", content="?"),)
        with suppress(AgentInterrupted, ModelError):
            await self._guard.complete(ModelRequest(messages=asked, settings=longest))

    async def _ask(self, agent: BaseAgent) -> None:
        async with agent.stream(q="?") as run:
            self._runs.append(run)
            with suppress(AgentInterrupted, ModelError):
                await run.wait()

    async def carry_out(self, seed: int) -> int:
        """Carry one out, look at every account, and return how many calls were made."""
        provider, self._runs = self.provider, []
        provider.random, provider.charged, provider.calls = Random(seed), Decimal(0), 0
        agent = self._outer.bind(session_id=str(seed))
        async with anyio.create_task_group() as tasks:
            for _ in range(RUNS):
                tasks.start_soon(self._ask, agent)
        spent = Decimal(0)
        for each in await self.ledger.balances():
            assert not each.reserved, each.label
            limit = SESSION if each.label.startswith("session") else EACH_RUN
            assert each.spent.usd <= limit, (seed, each.label, each.spent)
            if each.label == f"session of session {seed}":
                spent = each.spent.usd
        entries = [entry for run in self._runs for entry in run.log.entries]
        settled = [each.amount_usd for each in entries if isinstance(each, Settled)]
        assert spent == sum(settled)
        # What was cut off while it was under way was charged by nobody.
        assert spent == provider.charged, seed
        return provider.calls


@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_of_nested_agents_passes_a_limit(part: int) -> None:
    step = SCHEDULES // PARTS

    async def every() -> list[int]:
        provider = Charging(Random(0))
        async with Kernel(
            plugins=[ModelPlugin(provider, "charging")],
            discover=False,
            config={"default_provider": "charging"},
            config_file=False,
            environ={},
        ) as kernel:
            schedules = Schedules(kernel, provider)
            seeds = range(part * step, (part + 1) * step)
            return [await schedules.carry_out(seed) for seed in seeds]

    calls = anyio.run(every)

    assert sum(calls) / len(calls) > 50  # the others were refused
