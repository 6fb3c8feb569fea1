"""The gate: every call reserves before it is made, and settles after it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from os import urandom
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary
from zlib import crc32

import anyio
from kaizen.errors import AgentInterrupted
from kaizen.hooks import Priority, hookimpl
from kaizen.interrupts import InterruptMode
from kaizen.messages import Message
from kaizen.ports import Provider
from kaizen.run import current_run
from kaizen.runlog import Reserved

from kaizen_budgets._accounts import account_of, accounts_of, around
from kaizen_budgets._amounts import DIMENSIONS, UNLIMITED, Amounts, dollars, told
from kaizen_budgets._budget import Budget
from kaizen_budgets._errors import (
    BudgetExceededError,
    LedgerError,
    SoftLimitError,
    ToolUnaffordableError,
)
from kaizen_budgets._memory import MemoryLedger
from kaizen_budgets._meter import (
    Meter,
    close_lost,
    note_children,
    note_settled,
    noted_inside,
    spent_before,
    tell_parent,
)
from kaizen_budgets._prices import cost_of, cost_of_failure, most_of, price_of
from kaizen_budgets._stopping import (
    LOOK_S,
    Answers,
    allowed_to_go_on,
    note_over,
    stop,
    warn,
)
from kaizen_budgets._terms import Terms

if TYPE_CHECKING:
    from kaizen.hooks import HookManager
    from kaizen.hookspecs import AgentLoop, CallNext, ModelCall
    from kaizen.messages import ModelProfile, ModelReply, ModelRequest
    from kaizen.operations import Result, RunRequest
    from kaizen.run import Run
    from kaizen.tools import ToolCall, ToolResult

    from kaizen_budgets._ledger import Ledger, Reservation, Settlement
    from kaizen_budgets._prices import Price

__all__ = ["CLEANUP_S", "GATES", "Payment", "SpendLimits", "holding"]

CLEANUP_S = 30.0
_LOG = logging.getLogger("kaizen")

GATES: ContextVar[tuple[SpendLimits, ...]] = ContextVar("kaizen_budgets", default=())
"""The gates that the code under way spends through."""

_PAID: ContextVar[tuple[tuple[int, str, str], ...]] = ContextVar(
    "kaizen_budgets_paid", default=()
)
"""The calls under way, and the limits that pay for them: each pays for a call once."""

_ALONE: ContextVar[str] = ContextVar("kaizen_budgets_alone", default="")
"""The run in which a tool is called without a model: what it cannot pay is refused."""

_HELD: ContextVar[tuple[Reservation, ...]] = ContextVar("kaizen_budgets_held", default=())
"""What the code under way and the code around it have reserved: it waits for none of it."""


class Payment:
    """One call that is paid for.

    Attributes:
        most: What was reserved for it.
        cost: What it cost, once that is known.
        made: Whether it was made, as far as that is known, when it fails.
        cut_off: Whether it was cancelled, whatever is raised in the end.
        meter: Who pays.
        reservation: Where the most is set aside.
        what: What it is for, for the log.
    """

    __slots__ = ("cost", "cut_off", "made", "meter", "most", "reservation", "what")

    def __init__(self, meter: Meter, reservation: Reservation, what: str) -> None:
        self.meter = meter
        self.reservation = reservation
        self.what = what
        self.most = reservation.amounts
        self.cost: Amounts | None = None
        self.made: Amounts | None = None
        self.cut_off = False


class SpendLimits:
    """Keeps runs within budgets: a hook for a kernel's plugin, or for one agent.

        BaseAgent(..., hooks=[SpendLimits(Budget(usd="0.50"))])

    Args:
        budgets: What may be spent. Each needs a name if two are alike.
        ledger: Where it is counted; by default in memory, for these limits alone.
        name: Under which its reservations stand in the logs of runs; by default made of
            the names of the budgets.
        terms: How it is reckoned; see `Terms`.

    Attributes:
        answers: What calls wait for while somebody is asked for more time.

    Raises:
        ValueError: Two budgets have one name.
    """

    def __init__(
        self,
        *budgets: Budget,
        ledger: Ledger | Callable[[], Awaitable[Ledger]] | None = None,
        name: str = "",
        **terms: Any,
    ) -> None:
        labels = [each.label for each in budgets]
        twice = sorted({each for each in labels if labels.count(each) > 1})
        if twice:
            raise ValueError(f"two budgets are called {twice[0]!r}: give them a `name`")
        self.budgets = budgets
        self.terms = Terms(**terms)
        self.name = name or f"limits-{crc32(' '.join(labels).encode()):08x}"
        self.answers = Answers()
        self._ledger = ledger if ledger is not None else MemoryLedger()
        self._meters: dict[str, Meter] = {}
        self._causes: dict[str, BudgetExceededError] = {}
        self._asking: dict[str, anyio.Lock] = {}
        self._guests: dict[str, Run] = {}
        self._reached: WeakKeyDictionary[HookManager, int] = WeakKeyDictionary()
        self._opening = anyio.Lock()
        self._numbers = itertools.count(1)
        self._token = urandom(4).hex()

    async def ledger(self) -> Ledger:
        """Return where it is counted."""
        if not callable(self._ledger):
            return self._ledger
        async with self._opening:  # whoever waits finds what the first one has opened
            if callable(self._ledger):
                self._ledger = await self._ledger()
        return self._ledger

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_agent_loop(self, request: RunRequest, call_next: AgentLoop) -> Result:
        """Open the accounts of a run, and count the time that it takes."""
        if not self.budgets:
            return await call_next(request)
        run = current_run()
        self._reach(run.kernel.hooks)
        meter = await self._open(run)
        self._meters[run.id] = meter
        token = GATES.set(_with(GATES.get(), self))
        try:
            async with self._attended(meter):
                return await call_next(request)
        except AgentInterrupted as error:
            if run.id in self._causes:
                raise error from self._causes[run.id]
            raise
        finally:
            GATES.reset(token)
            self._causes.pop(run.id, None)
            del self._meters[run.id]
            tell_parent(run, meter.total, self.name)
            await self._ended(run)

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        """Reserve the most that a request can cost, and settle what its reply did."""
        run = current_run()
        if not self.budgets or self._pays(run, ""):
            return await call_next(request)
        await self.answers.until_given(run)
        profile = await _profile(run, request)
        if self.terms.tell_model:
            request = request.with_messages(await self._told(self._meter(run)))
        request, most, price = self.bound(run, request, profile)
        what = f"model {request.model or profile.name}"
        with self._paying_for(run, ""):
            async with self.paying(run, most, what) as paid:
                paid.made = Amounts(requests=1)
                try:
                    reply = await call_next(request)
                except Exception as error:
                    paid.cost = cost_of_failure(error, price, most)
                    raise
                paid.cost = cost_of(reply, price, most)
        return reply

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        """Reserve what a tool call costs, and settle that if it was made."""
        run = current_run()
        if not self.budgets or self._pays(run, call.id):
            return await call_next(call)
        await self.answers.until_given(run)
        self._reach(run.kernel.hooks)
        cost = Amounts(usd=self.terms.tool_costs.get(call.name, 0), tool_calls=1)
        token = GATES.set(_with(GATES.get(), self))
        alone = _ALONE.set(run.id if call.cycle == 0 else "")
        try:
            with self._paying_for(run, call.id):
                async with self.paying(run, cost, f"tool {call.name}") as paid:
                    try:
                        result = await call_next(call)
                    finally:
                        if call.id in run.state.pending:  # begun, whatever became of it
                            paid.cost = cost
            return result
        finally:
            _ALONE.reset(alone)
            GATES.reset(token)

    def attends(self, run: Run) -> bool:
        """Say whether these are limits of a run's own agent, or of its kernel."""
        return run.id in self._meters

    def _reach(self, hooks: HookManager) -> None:
        """Have all runs of a kernel held to the limits around them.

        The plugin does that where it is enabled. Without it, runs inside would spend past
        these limits, as their own agents know nothing of them.
        """
        if self._reached.get(hooks) == hooks.version:
            return
        from kaizen_budgets._inherited import Inheritance

        known = (each.function for each in hooks.implementations("wrap_tool_call"))
        if not any(isinstance(getattr(each, "__self__", 0), Inheritance) for each in known):
            hooks.add(Inheritance(), name="budgets-inheritance")
        self._reached[hooks] = hooks.version

    def _pays(self, run: Run, call_id: str) -> bool:
        """Say whether the call under way is paid for here, as it came by another hook."""
        return (id(self), run.id, call_id) in _PAID.get()

    @contextmanager
    def _paying_for(self, run: Run, call_id: str) -> Generator[None]:
        token = _PAID.set((*_PAID.get(), (id(self), run.id, call_id)))
        try:
            yield
        finally:
            _PAID.reset(token)

    @asynccontextmanager
    async def paying(
        self,
        run: Run,
        most: Amounts,
        what: str,
        *,
        spent: bool = False,
        durable: bool = False,
    ) -> AsyncGenerator[Payment]:
        """Reserve the most that a call can cost, and settle what it did cost.

        If the call fails and nobody said what it cost, what is reserved is given back; if
        it was cut off, nobody knows, and the terms say what counts.

        Args:
            run: Who pays.
            most: What is reserved.
            what: What it is for, for the log.
            spent: It is spent already: it counts whatever is left.
            durable: Wait until the log has it, where the kernel will not.

        Raises:
            AgentInterrupted: There is not enough left, and the run has to stop.
            ToolUnaffordableError: There is not, in a tool that is called without a model.
        """
        if run.id not in self._meters:
            await self._welcome(run)
        payment = await self.begin(run, most, what, spent=spent)
        try:
            with holding(payment):
                if durable:
                    await run.settle()
                if run.id in self._meters:
                    yield payment
                else:  # a call of tools alone: nobody else attends to it
                    async with self._attended(payment.meter):
                        try:
                            yield payment
                        except anyio.get_cancelled_exc_class():
                            payment.cut_off = True
                            raise
        except BaseException as error:
            await self.fail(payment, error)
            raise
        else:
            await self._settle(payment)

    async def begin(
        self,
        run: Run,
        most: Amounts,
        what: str,
        *,
        spent: bool = False,
    ) -> Payment:
        """Reserve the most that a call can cost; see `paying`.

        Whoever begins one ends it, by `end` or by `fail`. What is spent already is counted
        whatever happens from here on.
        """
        meter = self._meter(run)
        reservation = await self._reserve(meter, most, spent=spent)
        payment = Payment(meter, reservation, what)
        if spent:
            payment.cost = most
        try:
            if not run.ended:
                usd = dollars(most.units[0])
                run.add(Reserved, reservation_id=reservation.id, amount_usd=usd)
        except BaseException as error:  # a log that is closed, or another's by now
            await self.fail(payment, error)
            raise
        return payment

    async def end(self, payment: Payment) -> None:
        """Settle what a call did cost."""
        await self._settle(payment)

    async def fail(self, payment: Payment, error: BaseException) -> None:
        """Settle a call that failed, or was cut off.

        What the ledger cannot do is logged: it must not take the place of the error.
        """
        if payment.cost is None:
            payment.cost = self._of_failure(payment, error)
        try:
            await self._settle(payment)
        except LedgerError as problem:
            _LOG.error("%s is not settled: %s", payment.what, problem)

    def _of_failure(self, payment: Payment, error: BaseException) -> Amounts | None:
        """Return what counts for a call that failed."""
        if isinstance(error, Exception) and not payment.cut_off:
            return payment.made
        return payment.most if self.terms.lost == "charge" else payment.made

    def bound(
        self, run: Run, request: ModelRequest, profile: ModelProfile, *, replies: int = 1
    ) -> tuple[ModelRequest, Amounts, Price]:
        """Return a request, the most that it can cost, and the price that is for.

        Raises:
            UnknownPriceError: Money is limited, and nobody says what the model costs.
            UnknownBoundError: Money or tokens are, and nobody can say how long it answers.
        """
        meter = self._meter(run)
        price = price_of(profile, self.terms, limited=meter.limits_money)
        limited = meter.limits_money or meter.limits_tokens
        request, most = most_of(
            request, profile, price, self.terms, limited=limited, replies=replies
        )
        return request, most, price

    async def _reserve(self, meter: Meter, most: Amounts, *, spent: bool) -> Reservation:
        run, ledger = meter.run, await self.ledger()
        until = self.waits_until()
        while True:
            reservation_id = f"{self.name}:{run.id}:{self._token}-{next(self._numbers)}"
            try:
                reservation = await self._try(ledger, meter, most, reservation_id, spent)
                break
            except BudgetExceededError as error:
                await self.clear(meter, error, until)
        meter.open.add(reservation_id)
        return reservation

    def waits_until(self) -> float:
        """Return until when a call waits that begins to wait now."""
        return anyio.current_time() + self.terms.wait_seconds

    async def clear(self, meter: Meter, error: BudgetExceededError, until: float) -> None:
        """Wait for others, or ask the user, until what was refused may be tried again.

        Raises:
            AgentInterrupted: It may not, and the run has to stop.
            ToolUnaffordableError: It may not, in a tool that is called without a model.
        """
        left_s = until - anyio.current_time()
        if isinstance(error, SoftLimitError):
            if await self.may_go_on(meter, error):
                return
        elif left_s > 0 and _may_come_free(error) and meter.run.interrupted is None:
            await (await self.ledger()).changed(min(left_s, LOOK_S))
            return
        raise await self.refused(meter, error) from error

    async def _try(
        self, ledger: Ledger, meter: Meter, most: Amounts, reservation_id: str, spent: bool
    ) -> Reservation:
        try:
            return await ledger.reserve(
                meter.accounts,
                most,
                reservation_id=reservation_id,
                lease_s=self.terms.lease_seconds,
                spent=spent,
            )
        except BudgetExceededError:
            raise
        except BaseException:  # it may have been made all the same, and nobody will use it
            with anyio.move_on_after(CLEANUP_S, shield=True):
                await ledger.release(reservation_id)
            raise

    async def _settle(self, payment: Payment) -> None:
        meter, reservation, what = payment.meter, payment.reservation, payment.what
        run, ledger, cost = meter.run, await self.ledger(), payment.cost
        settlement: Settlement | None = None
        with anyio.move_on_after(CLEANUP_S, shield=True):
            try:
                if cost is None:
                    settlement = await ledger.release(reservation.id)
                else:
                    settlement = await ledger.settle(reservation.id, cost)
            finally:
                meter.open.discard(reservation.id)
        spent = cost or Amounts()
        meter.count(spent)
        note_settled(run, reservation.id, what, payment.most, spent)
        if settlement is None:
            _LOG.error("budget ledger did not settle %s in time", reservation.id)
            return
        note_over(run, settlement.over, what)
        for crossing in settlement.crossings:
            await warn(run, crossing)

    async def may_go_on(self, meter: Meter, error: SoftLimitError) -> bool:
        """Ask once, however many calls wait for the answer."""
        run, key = meter.run, error.account.key
        lock = self._asking.setdefault(key, anyio.Lock())
        async with lock:
            if run.interrupted is not None:
                return False
            try:
                return await allowed_to_go_on(run, await self.ledger(), error)
            finally:
                if not lock.statistics().tasks_waiting:
                    self._asking.pop(key, None)

    async def refused(
        self, meter: Meter, error: BudgetExceededError, *, at_once: bool = False
    ) -> Exception:
        """Return what to raise, after the run was stopped where it has to be.

        Args:
            meter: Who cannot pay.
            error: What there is not enough of.
            at_once: Cancel what is under way, also of a run that is about to stop.
        """
        run = meter.run
        note = {"account": error.account.label, "dimension": error.dimension}
        run.note("budgets", "refused", {**note, "why": str(error)[:1_000]})
        if _ALONE.get() == run.id:
            return ToolUnaffordableError(error.subject, error.problem, error.remedy)
        if run.interrupted is not None and not at_once:
            return AgentInterrupted(run.interrupted, run.id)
        mode = InterruptMode.IMMEDIATE if at_once else InterruptMode.GRACEFUL
        interrupted = await stop(run, error, self.budgets, mode)
        for each in run.path:
            if each.interrupted is not None and each.id in self._meters:
                self._causes.setdefault(each.id, error)
        return interrupted

    def _meter(self, run: Run) -> Meter:
        """Return the meter of a run; a call of tools alone has one for each call."""
        known = self._meters.get(run.id)
        if known is not None:
            return known
        known_around = (self._meters.get(each.id) for each in around(run))
        parent = next((each for each in known_around if each is not None), None)
        return Meter(run, accounts_of(run, self.budgets), parent)

    async def _open(self, run: Run) -> Meter:
        """Return the meter of a run that begins or goes on.

        What a run spent before it was resumed is in its log; a ledger that does not know
        the run learns it from there.
        """
        meter = self._meter(run)
        if run.past is None:
            return meter
        ledger = await self.ledger()
        await close_lost(run, ledger, self.name, self.terms.lost)
        await note_children(run, self.name)
        before = meter.total = spent_before(run.log.entries, self.name)
        keys = {account_of(run, each).key for each in self.budgets if each.ends_with_run}
        own = [each for each in meter.accounts if each.key in keys]
        if not own or not before or await ledger.knows(own[0]):
            return meter
        for account in own:
            await ledger.record(account, before)
        if run.parent is not None and meter.parent is not None:
            missing = before.beyond(noted_inside(run.parent, run.id, self.name))
            meter.parent.count(missing)
            for account in meter.accounts:
                if missing and account.budget.ends_with_run and account.key not in keys:
                    await ledger.record(account, missing)
        return meter

    async def _welcome(self, run: Run) -> None:
        """Remember a run whose end is not seen here, and let go of those that have ended.

        Such are calls of tools alone, and runs inside that have no such limits themselves.
        """
        for each in [each for each in self._guests.values() if each.ended]:
            self._guests.pop(each.id, None)
            await self._ended(each)
        if not run.ended:
            self._guests[run.id] = run

    async def _ended(self, run: Run) -> None:
        """Tell the ledger that a run has ended, and its own accounts with it."""
        own = [account_of(run, each) for each in self.budgets if each.ends_with_run]
        if not own:
            return
        with anyio.move_on_after(CLEANUP_S, shield=True):
            try:
                await (await self.ledger()).ended(own)
            except LedgerError as error:
                _LOG.warning("accounts of run %s: %s", run.id, error)

    async def _told(self, meter: Meter) -> Message:
        """Return what a model is told of what is left."""
        ledger = await self.ledger()
        least: dict[int, int] = {}
        for account in meter.accounts:
            balance = await ledger.balance(account)
            for place, name in enumerate(DIMENSIONS):
                left = balance.left(name)
                if left is not None and account.limits[place] < UNLIMITED:
                    least[place] = min(left, least.get(place, UNLIMITED))
        words = ", ".join(told(place, max(0, left)) for place, left in least.items())
        text = f"[Budget: {words} left for this task. Spend it accordingly.]"
        return Message(role="user", content=text, origin="budgets")

    @asynccontextmanager
    async def _attended(self, meter: Meter) -> AsyncGenerator[None]:
        """Renew the reservations of a run and count its time, where that is needed."""
        ledger = await self.ledger()
        if not ledger.leases and not meter.timed:
            yield
            return
        from kaizen_budgets._attendant import attended

        async with attended(self, ledger, meter):
            yield


@contextmanager
def holding(*payments: Payment) -> Generator[None]:
    """Know in the block what is reserved around it, so that nothing there waits for it."""
    token = _HELD.set((*_HELD.get(), *(each.reservation for each in payments)))
    try:
        yield
    finally:
        with suppress(ValueError):  # closed by others, who have a context of their own
            _HELD.reset(token)


def _with(gates: tuple[SpendLimits, ...], gate: SpendLimits) -> tuple[SpendLimits, ...]:
    return gates if gate in gates else (*gates, gate)


def _may_come_free(error: BudgetExceededError) -> bool:
    """Whether others hold so much that the call fits once they have given it back.

    What the code around the call holds does not come free before the call has ended.
    """
    short = error.shortage
    mine = sum(
        each.units[short.place]
        for each in _HELD.get()
        if any(account.key == error.account.key for account in each.accounts)
    )
    return short.spent + mine + short.wanted <= short.limit and short.reserved > mine


async def _profile(run: Run, request: ModelRequest) -> ModelProfile:
    """Return what is said of the model that is really asked, be it another provider's."""
    provider = run.plan.provider
    if request.provider and request.provider != run.plan.provider_name:
        provider = await run.kernel.get(Provider, request.provider)  # type: ignore[type-abstract]
    return provider.describe(request.model)
