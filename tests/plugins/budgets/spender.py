"""A process that spends: fifty tasks at once, from one account that others spend from too.

It reads from its standard input what to do, one line each, and answers with one line:

- `trial KEY SEED` spends from the account of that key until it has not enough left, and
  says how many units it was charged.
- `forever KEY SEED` does so until somebody kills it; what it is charged stands in the file
  `charged`, before it is settled, one line each.
"""

from __future__ import annotations

import os
import sys
from functools import cache, partial
from pathlib import Path
from random import Random

import anyio
from kaizen_budgets import (
    Account,
    Amounts,
    Budget,
    BudgetExceededError,
    SqliteLedger,
)

TASKS = 50
LIMIT = "1.00"
CENT = 10**10
LEASE_S = 2.0


@cache
def shared(key: str) -> Account:
    """The account that everybody spends from."""
    return Account(key, Budget(usd=LIMIT, warn_at=()))


async def spend(ledger: SqliteLedger, key: str, random: Random, name: str) -> int:
    """Make one call that charges up to what was reserved; return what it charged."""
    most = random.randrange(CENT // 2, 2 * CENT)
    charged = most if random.random() < 0.5 else random.randrange(most)
    reserved = await reserve(ledger, key, most, name)
    if not reserved:
        return 0
    if random.random() < 0.5:
        await anyio.lowlevel.checkpoint()
    if random.random() < 0.05:
        await ledger.release(name)
        return 0
    await ledger.settle(name, Amounts.of((charged, 0, 0, 0, 0)))
    return charged


async def reserve(ledger: SqliteLedger, key: str, most: int, name: str) -> bool:
    """Reserve as soon as others have given enough back; say whether they did."""
    while True:
        try:
            await ledger.reserve(
                [shared(key)],
                Amounts.of((most, 0, 0, 0, 0)),
                reservation_id=name,
                lease_s=LEASE_S,
            )
        except BudgetExceededError as error:
            if error.shortage.spent + most > error.shortage.limit:
                return False
            await ledger.changed(0.01)
        else:
            return True


async def trial(ledger: SqliteLedger, key: str, seed: str) -> int:
    """Let each task make a call, if there is enough left; return what they charged."""
    total = 0

    async def work(place: int) -> None:
        nonlocal total
        name = f"{key}:{os.getpid()}:{place}"
        charged = await spend(ledger, key, Random(f"{seed} {place}"), name)
        total += charged

    async with anyio.create_task_group() as tasks:
        for place in range(TASKS):
            tasks.start_soon(work, place)
    return total


async def forever(ledger: SqliteLedger, key: str, seed: str, charged: Path) -> None:
    """Spend until nothing is left, writing down each charge as its provider would."""
    bill = os.open(charged, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    async def work(place: int) -> None:
        random, number = Random(f"{seed} {place}"), 0
        while True:
            most, number = random.randrange(CENT // 20, CENT // 5), number + 1
            name = f"{key}:{os.getpid()}:{place}:{number}"
            if not await reserve(ledger, key, most, name):
                return
            os.write(bill, f"{most}\n".encode())
            await anyio.lowlevel.checkpoint()
            await ledger.settle(name, Amounts.of((most, 0, 0, 0, 0)))

    async with anyio.create_task_group() as tasks:
        for place in range(10):
            tasks.start_soon(work, place)


async def main(path: str, lost: str) -> None:
    async with SqliteLedger(path, lost=lost) as ledger:  # type: ignore[arg-type]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for line in sys.stdin:  # between two lines there is nothing else to do
            what, key, seed = line.split()
            if what == "trial":
                answer = str(await trial(ledger, key, seed))
            else:
                await forever(ledger, key, seed, Path(path).with_name("charged"))
                answer = "spent"
            sys.stdout.write(f"{answer}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(partial(main, *sys.argv[1:]))
