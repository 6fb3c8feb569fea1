"""Addresses that must not be reached, how they are spelled, and who answers for names."""

from __future__ import annotations

import ipaddress
import itertools
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

__all__ = ["INTERNAL", "INTERNAL_6", "PUBLIC", "Names", "listening", "spelled", "spelled_6"]

PUBLIC = "93.184.216.34"
INTERNAL = [
    *("127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "0.0.0.0", "255.255.255.255"),
    *("224.0.0.1", "192.0.0.192", "198.18.0.1", "168.63.129.16", "240.0.0.1", "192.0.2.1"),
]
INTERNAL_6 = [
    *("::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1"),
    *("2001:db8::1", "2001::1", "2002:7f00:1::", "64:ff9b:1::1", "100::1", "3fff::1"),
]


def spelled(address: str) -> Iterator[str]:
    """Give the ways in which people have written an IPv4 address into a URL."""
    a, b, c, d = (int(part) for part in address.split("."))
    number = (a << 24) | (b << 16) | (c << 8) | d
    yield from (address, f"{address}.", str(number), hex(number), oct(number)[1:])
    yield from (
        f"0{number:o}",
        f"{number}.",
        f"0x{number:08X}",
        f"{a}.{number & 0xFFFFFF}",
    )
    yield from (
        f"{a}.{b}.{(c << 8) | d}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        f"{a:#x}.{b}.{c}.{d}",
    )
    yield from (f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a:03d}.{b:03d}.{c:03d}.{d:03d}")
    yield from (
        address.replace(".", "。"),
        address.replace(".", "．"),
        address.replace(".", "%2e"),
    )
    yield address.translate({ord(str(digit)): 0xFF10 + digit for digit in range(10)})
    yield address.translate({ord(str(digit)): 0x2460 + digit - 1 for digit in range(1, 10)})
    yield "".join(f"%{ord(each):02x}" for each in address)
    packed = ipaddress.IPv4Address(address).packed.hex()
    high, low = packed[:4], packed[4:]
    yield from (f"[::ffff:{address}]", f"[::ffff:{high}:{low}]", f"[::{address}]")
    yield from (f"[64:ff9b::{address}]", f"[2002:{high}:{low}::1]", f"[2001::{high}:{low}]")
    yield from (f"[2607:f8b0::5efe:{address}]", f"[0:0:0:0:0:FFFF:{address}]")
    yield from (f"[::ffff:0:{address}]", f"[::ffff:{address}%25eth0]", "[::1%lo]")
    yield from (f"user@{address}", f"example.com@{address}", f"{address}:80@example.com")
    yield from (f"example.com\\@{address}", f"{address}\\.example.com", f"\t{address}")
    yield from (
        f"{address}\n",
        f"exa\r\nmple.com@{address}",
        f" {address}",
        f"{address}\x00",
    )


def spelled_6(address: str) -> Iterator[str]:
    """Give the ways in which an IPv6 address can be written into a URL."""
    parsed = ipaddress.IPv6Address(address)
    digits = (
        parsed.packed.hex()
    )  # from Python 3.13 on, `exploded` may end in an IPv4 address
    parts = [int(digits[at : at + 4], 16) for at in range(0, 32, 4)]
    yield from (f"[{parsed}]", f"[{parsed.exploded}]", f"[{parsed.exploded.upper()}]")
    yield f"[{':'.join(f'{part:x}' for part in parts)}]"
    last = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    yield f"[{':'.join(f'{part:x}' for part in parts[:6])}:{last}]"
    yield from (f"[{parsed}%25eth0]", f"[{parsed}%eth0]", f"%5b{parsed}%5d", str(parsed))
    yield from (f"user:word@[{parsed}]", f"[{parsed}].", f"[ {parsed}]", f"[{parsed}/64]")


class Names:
    """A name server of our own: each name has answers that it gives one after another."""

    def __init__(self, **answers: Sequence[str | Sequence[str]]) -> None:
        self.asked: list[str] = []
        self._answers = {
            name.replace("_", "."): itertools.cycle(given)
            for name, given in answers.items()
        }

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self._answers:
            return []
        answer = next(self._answers[host])
        return [answer] if isinstance(answer, str) else list(answer)


@contextmanager
def listening() -> Iterator[tuple[int, list[object]]]:
    """Listen on a port of this machine, and remember who came."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, address = server.accept()
                    came.append(address)
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], came
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
