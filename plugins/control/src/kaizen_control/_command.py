"""`kaizen requests`: what runs in the store wait for, and how to answer it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from time import time
from typing import TYPE_CHECKING, Any

from kaizen import AnswerRefusedError, CheckpointError, CheckpointStore

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kaizen import Kernel, PendingRequest

__all__ = ["requests"]

REFUSED, MISUSED = 1, 2
_DEFAULT_STORE = "sqlite"
"""Where the command line keeps runs if nobody says anything."""


async def requests(kernel: Kernel, arguments: Sequence[str]) -> int:
    """Carry out `kaizen requests`; return 0, or 1 if an answer was not taken."""
    try:
        options = _options(arguments)
    except SystemExit as end:  # it was shown how the command is used
        return end.code if isinstance(end.code, int) else MISUSED
    name = options.store or _store_name(kernel)
    if not name:
        sys.stderr.write(
            "No store keeps runs here. Set `checkpoint_store` under [kaizen], or name one "
            "with --store.\n"
        )
        return MISUSED
    try:
        store = await kernel.get(CheckpointStore, name)  # type: ignore[type-abstract]
        if options.command == "list":
            return await _list(store, as_json=options.json)
        return await _answer(store, options)
    except (CheckpointError, AnswerRefusedError) as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED


def _store_name(kernel: Kernel) -> str:
    name = kernel.config.checkpoint_store
    if name is None and kernel.registry.offered(CheckpointStore, _DEFAULT_STORE):
        return _DEFAULT_STORE
    return name or ""


def _options(arguments: Sequence[str]) -> Namespace:
    from argparse import ArgumentParser

    parser = ArgumentParser(
        prog="kaizen requests", description="See and answer what runs wait for."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    listing = commands.add_parser("list", help="show every request that is open")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.add_argument("--store", default="", help="the store that keeps the runs")
    answering = commands.add_parser(
        "answer",
        help="answer one; its run goes on with `kaizen runs resume`",
        description="Answer a request. `kaizen requests list` shows what there is.",
    )
    _add_answers(answering)
    options = parser.parse_args(list(arguments))
    if options.command == "answer" and options.always and not options.approve:
        answering.error("--always goes with --approve")
    return options


def _add_answers(parser: ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the request")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--approve", action="store_true", help="allow what it is about")
    given.add_argument("--deny", action="store_true", help="refuse it")
    given.add_argument("--text", help="answer a question")
    given.add_argument("--value", metavar="JSON", help="answer a question with JSON")
    parser.add_argument("--always", action="store_true", help="the rule holds from now on")
    parser.add_argument("--comment", default="", help="what else there is to say")
    parser.add_argument(
        "--digest", help="approve only if the action still is that of this digest"
    )
    parser.add_argument("--store", default="", help="the store that keeps the runs")


async def _list(store: CheckpointStore, *, as_json: bool) -> int:
    from kaizen.checkpoints import pending_requests

    found = await pending_requests(store)
    if as_json:
        from kaizen_control._messages import RequestMessage
        from kaizen_control._messages import as_json as encoded

        lines = b",\n".join(encoded(RequestMessage.of(each)) for each in found)
        sys.stdout.write(f"[{lines.decode()}]\n")
        return 0
    for each in found:
        sys.stdout.write(_shown(each))
    if not found:
        sys.stdout.write("No run waits for an answer.\n")
    return 0


def _shown(request: PendingRequest) -> str:
    from shutil import get_terminal_size

    from kaizen_control._showing import rendered

    expires = request.expires_at
    late = ["(It has expired.)"] if expires is not None and time() >= expires else []
    width = max(40, get_terminal_size((100, 24)).columns)
    return "\n".join([*rendered(request, width=width), *late, "", ""])


async def _answer(store: CheckpointStore, options: Namespace) -> int:
    from kaizen.checkpoints import answer

    from kaizen_control._answers import MisfitError, fitting
    from kaizen_control._cli import user_name
    from kaizen_control._messages import MalformedError, read_answer, read_value

    request = await _find(store, options.id)
    fields: dict[str, Any] = {"id": options.id, "text": options.comment}
    try:
        if options.value is not None:
            fields["value"] = read_value(options.value.encode("utf-8", "replace"))
        elif options.text is not None:
            fields["text"] = options.text
        else:
            digest = request.action_digest if options.digest is None else options.digest
            fields |= {
                "approved": options.approve,
                "always": options.always,
                "action_digest": digest,
            }
        given = await fitting(request, read_answer(fields), principal=user_name())
    except (MalformedError, MisfitError) as error:
        reason = error.reason if isinstance(error, MisfitError) else str(error)
        raise _refused(options.id, f"was not taken: {reason}") from None
    await answer(store, options.id, given)
    run_id = request.run_path[0] if request.run_path else options.id.partition(":")[0]
    sys.stdout.write(
        f"The answer is in the log. `kaizen runs resume {run_id}` goes on with the run.\n"
    )
    return 0


async def _find(store: CheckpointStore, request_id: str) -> PendingRequest:
    """Return an open request.

    Raises:
        AnswerRefusedError: It is not open.
    """
    from kaizen.checkpoints import pending_requests

    run_id = request_id.partition(":")[0]
    for each in await pending_requests(store, run_id=run_id):
        if each.id == request_id:
            return each
    raise _refused(request_id, "was not taken: no request of that id is open")


def _refused(request_id: str, problem: str) -> AnswerRefusedError:
    return AnswerRefusedError(f"the answer to {request_id[:200]!r}", problem)
