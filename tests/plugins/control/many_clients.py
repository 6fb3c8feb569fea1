"""Many readers of one server, each of which is cut off once and comes back.

    many_clients.py <port> <token> <clients> <cuts>

Says `ready` when all of them read, and in the end what they have seen, as JSON. Reader n is
cut off after event n modulo the number of cuts, or never if that is 0.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter

ID = re.compile(rb"id: [0-9a-f]+-(\d+)\n")


class Crowd:
    """All readers, and what they have seen.

    Attributes:
        seen: How often each sequence of events was seen.
    """

    def __init__(self, port: int, token: str, clients: int, cuts: int) -> None:
        self._head = (
            f"GET /events HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\n"
            f"authorization: Bearer {token}\r\n"
        )
        self._port = port
        self._clients = clients
        self._cuts = cuts
        self._waiting = clients
        self.seen: Counter[tuple[int, ...]] = Counter()
        self.ready = asyncio.Event()

    async def read(self, number: int) -> None:
        """Read until the last event, with one cut."""
        numbers: list[int] = []
        cut = number % self._cuts + 1 if self._cuts else 0
        last = ""
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            more = f"last-event-id: {last}\r\n" if last else ""
            writer.write(f"{self._head}{more}\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            while True:
                block = await reader.readuntil(b"\n\n")
                match = ID.match(block)
                if match is None:
                    continue
                last = block[4 : block.index(b"\n")].decode()
                numbers.append(int(match[1]))
                if len(numbers) == 1:
                    self._arrive()
                if b'"message":"end"' in block:
                    writer.close()
                    self.seen[tuple(numbers)] += 1
                    return
                if len(numbers) == cut:
                    cut = 0
                    break
            writer.close()

    def _arrive(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self.ready.set()


async def main(port: int, token: str, clients: int, cuts: int) -> None:
    crowd = Crowd(port, token, clients, cuts)
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(crowd.read(number))
            if number % 50 == 49:  # so that the server's queue of connections is not full
                await asyncio.sleep(0.01)
        await crowd.ready.wait()
        say("ready")
    say(json.dumps([[list(key), count] for key, count in crowd.seen.items()]))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _, given_port, given_token, given_clients, given_cuts = sys.argv
    asyncio.run(main(int(given_port), given_token, int(given_clients), int(given_cuts)))
