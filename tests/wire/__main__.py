"""A server in a process of its own, for what measures memory: `python -m tests.wire`.

Says every answer in the same pieces. Prints its address, and stops when its input ends.
"""

from __future__ import annotations

import argparse
import sys

from tests.wire.server import Answer, WireServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=60, help="pieces of one answer")
    parser.add_argument("--between", type=float, default=0.0, help="seconds between them")
    options = parser.parse_args()
    pieces = [f"piece {number} " for number in range(options.chunks)]
    answer = Answer(chunks=pieces, between_s=options.between)
    with WireServer(otherwise=answer) as wire:
        print(wire.url, flush=True)  # noqa: T201 - whoever started it reads this
        sys.stdin.read()


if __name__ == "__main__":
    main()
