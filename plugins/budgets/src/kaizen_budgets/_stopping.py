"""What happens where a limit is reached: questions, warnings, and the end of the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import anyio
from kaizen.errors import AgentInterrupted, ControlError, KaizenError
from kaizen.interrupts import (
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
)

from kaizen_budgets._accounts import account_of, around
from kaizen_budgets._amounts import DIMENSIONS, SECONDS, told
from kaizen_budgets._budget import SHARES, Budget
from kaizen_budgets._meter import SOURCE

if TYPE_CHECKING:
    from kaizen.run import Run

    from kaizen_budgets._errors import BudgetExceededError, SoftLimitError
    from kaizen_budgets._ledger import Account, Balance, Crossing, Ledger

__all__ = ["LOOK_S", "Answers", "allowed_to_go_on", "note_over", "stop", "warn"]

TELL_S = 5.0
LOOK_S = 0.5
"""How often who waits looks whether its run was asked to stop."""

_LOG = logging.getLogger("kaizen")


async def warn(run: Run, crossing: Crossing) -> None:
    """Say that a share of a limit is reached: in both logs, and to whoever is outside."""
    message = str(crossing)
    _LOG.warning("%s", message)
    if run.ended:
        return
    place = DIMENSIONS.index(crossing.dimension)
    data = {
        "account": crossing.account.label,
        "dimension": crossing.dimension,
        "share": crossing.share,
        "spent": told(place, crossing.spent),
        "limit": told(place, crossing.limit),
    }
    run.note(SOURCE, "warning", data)
    with anyio.move_on_after(TELL_S):  # nobody waits for whoever does not listen
        await run.report_progress(message)


def note_over(run: Run, accounts: Sequence[Account], what: str) -> None:
    """Say that a call cost more than the most that it could."""
    for account in accounts:
        _LOG.warning("%s cost more than budget %r had left", what, account.label)
        if not run.ended:
            run.note(SOURCE, "over", {"account": account.label, "what": what[:200]})


class Answers:
    """The answers without which runs make no further call.

    Such a run is not paused: a pause is the user's, who may ask for one and end it
    meanwhile.
    """

    def __init__(self) -> None:
        self._awaited: list[tuple[str, anyio.Event]] = []

    @contextmanager
    def awaited(self, run: Run) -> Generator[None]:
        """Have the calls of a run, and of every run inside it, wait for the block's end."""
        question = (run.id, anyio.Event())
        self._awaited.append(question)
        try:
            yield
        finally:
            self._awaited.remove(question)
            question[1].set()

    async def until_given(self, run: Run) -> None:
        """Wait while somebody is asked about a run, or one around it.

        Raises:
            AgentInterrupted: It was asked to stop while it waited.
        """
        while (given := self._missing(run)) is not None:
            while not given.is_set() and run.interrupted is None:
                with anyio.move_on_after(LOOK_S):
                    await given.wait()
            await run.until_continued()  # the user may have paused it meanwhile

    def _missing(self, run: Run) -> anyio.Event | None:
        if not self._awaited:
            return None
        path = {each.id for each in run.path}
        return next((given for run_id, given in self._awaited if run_id in path), None)


async def allowed_to_go_on(run: Run, ledger: Ledger, error: SoftLimitError) -> bool:
    """Ask whether to go on beyond a soft limit, and raise it if so.

    It is raised by as many steps as the next call needs, and never beyond the hard one.
    """
    balance = await ledger.balance(error.account)
    before, after = _shares(balance, error)
    if before >= after:  # somebody has allowed it meanwhile
        return True
    details = _details(balance, error, after)
    timed = error.dimension == "seconds"
    wanted = "" if timed else f", and the next call may cost {details['wanted']}"
    text = (
        f"Budget {error.account.label!r} has spent {details['spent']} of "
        f"{details['limit']}{wanted}. Go on, up to {details['new_soft_limit']}?"
    )
    whole = json.dumps([run.id, error.account.key, details], sort_keys=True)
    try:
        answer = await run.ask(
            text,
            kind="approval",
            details=details,
            action_digest=f"sha256:{sha256(whole.encode()).hexdigest()}",
        )
    except ControlError as problem:
        run.note(SOURCE, "not_asked", {**details, "why": str(problem)[:500]})
        return False
    run.note(SOURCE, "asked", {**details, "approved": answer.approved})
    if answer.approved:
        await ledger.allow(error.account, error.dimension, after)
    return answer.approved


def _shares(balance: Balance, error: SoftLimitError) -> tuple[int, int]:
    """Return the soft limit that is, and the one that the next call needs."""
    place = error.shortage.place
    limit = balance.limits[place]
    needed = balance.spent.units[place] + balance.reserved.units[place]
    needed += error.shortage.wanted
    before = after = round(balance.soft.get(error.dimension, 1) * SHARES)
    step = max(1, round(error.account.budget.soft_step * SHARES))
    if needed * SHARES > limit * before:
        missing = -(-needed * SHARES // max(1, limit)) - before
        after = min(SHARES, before + -(-missing // step) * step)
    return before, after


def _details(balance: Balance, error: SoftLimitError, after: int) -> dict[str, Any]:
    place = error.shortage.place
    limit = balance.limits[place]
    spent = balance.spent.units[place]
    if place == SECONDS:  # what was reserved is running out
        spent = error.shortage.spent + error.shortage.reserved
    return {
        "budget": error.account.label,
        "dimension": error.dimension,
        "spent": told(place, spent),
        "soft_limit": told(place, error.shortage.limit),
        "limit": told(place, limit),
        "wanted": told(place, error.shortage.wanted),
        "new_soft_limit": told(place, limit * after // SHARES),
    }


def reason_of(error: BudgetExceededError, mode: InterruptMode) -> InterruptReason:
    """Return the reason for which a run stops that cannot pay."""
    place = error.shortage.place
    metadata = {
        "budget": error.account.label,
        "dimension": error.dimension,
        "limit": told(place, error.shortage.limit),
        "spent": told(place, error.shortage.spent),
        "left": told(place, error.shortage.left),
    }
    if place != SECONDS:  # time is wanted as it comes
        metadata["wanted"] = told(place, error.shortage.wanted)
    if error.dimension == "usd":
        metadata |= {
            "budget_limit_usd": str(error.limit),
            "budget_spent_usd": str(error.spent),
        }
    return InterruptReason(
        source=InterruptSource.SYSTEM,
        mode=mode,
        signal=InterruptSignal.BUDGET_EXCEEDED,
        message=str(error),
        metadata=metadata,
    )


async def stop(
    run: Run, error: BudgetExceededError, budgets: Sequence[Budget], mode: InterruptMode
) -> AgentInterrupted:
    """Stop the run whose account it is, with a checkpoint, and return what to raise.

    That is the outermost one that spends from it: nothing inside could go on either.
    """
    key = error.account.key
    owner = run
    for each in around(run):
        own = (account_of(each, budget).key for budget in budgets)
        if not each.ended and key in own:
            owner = each
    for each in {owner, run}:
        await _mark(each)
    reason = reason_of(error, mode)
    owner.interrupt(reason)
    run.interrupt(reason)  # it may not be inside the other: a call of tools alone
    return AgentInterrupted(run.interrupted or reason, run.id)


async def _mark(run: Run) -> None:
    if run.ended or run.interrupted is not None:  # it has one, or another reason to stop
        return
    try:
        await run.checkpoint("out of budget")
    except KaizenError as error:  # it stops all the same
        _LOG.warning("run %s stops without a checkpoint: %s", run.id, error)
