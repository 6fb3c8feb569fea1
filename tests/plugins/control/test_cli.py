"""Questions in a terminal: what is shown, what answers, and what refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import termios
import textwrap
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import time

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from kaizen import Answer, NotAnsweredError, PendingRequest
from kaizen_control import CLITransport, ControlProtocol, TransportClosedError
from kaizen_control._showing import rendered, visible
from kaizen_control._terminal import Terminal
from rich.cells import cell_len

from tests.plugins.control._terminal import Seat, seat

pytestmark = pytest.mark.anyio

QUESTION = PendingRequest(
    id="run:ask_1", kind="question", text="Which way?", agent_path=("outer", "inner")
)
CHOICE = replace(QUESTION, options=("left", "right"), schema={"enum": ["left", "right"]})
APPROVAL = PendingRequest(
    id="run:ask_1",
    kind="approval",
    text="May the tool write_file run?",
    details={
        "tool": "write_file",
        "danger": "HIGH",
        "arguments": {"path": "notes.txt", "content": "one\ntwo"},
    },
    action_digest="sha256:" + "ab" * 32,
    agent_path=("outer", "inner"),
    principal="alice",
)
RULED = replace(APPROVAL, details={**APPROVAL.details, "rule": "write_file(notes/**)"})
LONG = replace(
    APPROVAL,
    details={
        "tool": "write_file",
        "rule": "write_file(**)",
        "arguments": {"content": "\n".join(f"line {number}" for number in range(60))},
    },
)
SHORT_PROMPT = "[y]es / [n]o: "
LONG_WORDS = "Type 'write_file' or 'yes' / [n]o: "
LONG_PROMPT = "Type 'write_file' or 'yes' / [n]o / always, by the rule above: "


class Asked:
    """A question in a terminal, and what came of it."""

    def __init__(self, terminal: Seat, protocol: ControlProtocol) -> None:
        self.terminal = terminal
        self.protocol = protocol
        self.tasks = anyio.create_task_group()
        self.scopes: dict[str, anyio.CancelScope] = {}
        self.outcomes: dict[str, Answer | NotAnsweredError] = {}
        self._over = anyio.Event()

    def ask(self, request: PendingRequest) -> None:
        self.tasks.start_soon(self._ask, request)

    async def _ask(self, request: PendingRequest) -> None:
        try:
            with anyio.CancelScope() as self.scopes[request.id]:
                self.outcomes[request.id] = await self.protocol.ask(request)
        except NotAnsweredError as error:
            self.outcomes[request.id] = error
        self._over.set()
        self._over = anyio.Event()

    async def outcome(self, request: PendingRequest) -> Answer | NotAnsweredError:
        with anyio.fail_after(10):
            while request.id not in self.outcomes:
                await self._over.wait()
        return self.outcomes.pop(request.id)

    async def answer(self, request: PendingRequest) -> Answer:
        outcome = await self.outcome(request)
        assert isinstance(outcome, Answer), outcome
        return outcome

    async def problem(self, request: PendingRequest) -> str:
        outcome = await self.outcome(request)
        assert isinstance(outcome, NotAnsweredError), outcome
        return outcome.problem


@asynccontextmanager
async def asking(height: int = 40, width: int = 100) -> AsyncGenerator[Asked]:
    with seat(height, width) as terminal:
        transport = CLITransport(terminal.slave, terminal.slave, principal="me")
        async with ControlProtocol(transport) as protocol:
            made = Asked(terminal, protocol)
            async with made.tasks:
                yield made
                made.tasks.cancel_scope.cancel()


async def test_an_approval_is_shown_whole_and_approved_by_a_key() -> None:
    async with asking() as asked:
        asked.ask(APPROVAL)
        shown = await asked.terminal.sees(SHORT_PROMPT)

        await asked.terminal.types("y\n")

        assert await asked.answer(APPROVAL) == Answer(approved=True, principal="me")
        for part in (
            "Approval for outer › inner",
            "May the tool write_file run?",
            '"write_file"',
            '"HIGH"',
            "arguments.path",
            '"notes.txt"',
            "│ one",
            "│ two",
            "alice",
            APPROVAL.id,
        ):
            assert part in shown


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ("y", Answer(approved=True)),
        ("YES", Answer(approved=True)),
        ("n", Answer()),
        ("no", Answer()),
        ("no, use the other folder", Answer(text="use the other folder")),
        ("y go on", Answer(approved=True, text="go on")),
        ("a", Answer(approved=True, always=True)),
        ("always", Answer(approved=True, always=True)),
    ],
)
async def test_a_word_decides_and_the_rest_is_a_comment(keys: str, answer: Answer) -> None:
    async with asking() as asked:
        asked.ask(RULED)
        await asked.terminal.sees("[a]lways, by the rule above: ")

        await asked.terminal.types(f"{keys}\n")

        assert await asked.answer(RULED) == replace(answer, principal="me")


@pytest.mark.parametrize("keys", ["", " ", "ja", "yess", "yes!", "1", "write_file", "a"])
async def test_whatever_is_no_decision_is_asked_again(keys: str) -> None:
    async with asking() as asked:
        asked.ask(APPROVAL)
        await asked.terminal.sees(SHORT_PROMPT)
        await asked.terminal.types(f"{keys}\n")
        await asked.terminal.sees(SHORT_PROMPT)

        assert asked.outcomes == {}
        await asked.terminal.types("n\n")
        assert not (await asked.answer(APPROVAL)).approved


async def test_always_is_offered_with_the_rule_in_full_or_not_at_all() -> None:
    async with asking() as asked:
        asked.ask(APPROVAL)
        assert "lways" not in await asked.terminal.sees(SHORT_PROMPT)
        await asked.terminal.types("n\n")
        await asked.outcome(APPROVAL)

        asked.ask(RULED)
        assert '"write_file(notes/**)"' in await asked.terminal.sees("[a]lways")


@pytest.mark.parametrize("keys", ["\x03", "\x04", "y\x03", "yes\x03"])
@pytest.mark.parametrize("request_", [APPROVAL, QUESTION], ids=["approval", "question"])
async def test_ctrl_c_and_the_end_of_input_refuse(
    keys: str, request_: PendingRequest
) -> None:
    async with asking() as asked:
        asked.ask(request_)
        await asked.terminal.sees(SHORT_PROMPT if request_ is APPROVAL else "Answer: ")

        await asked.terminal.types(keys)

        if request_ is APPROVAL:
            assert await asked.answer(request_) == Answer(principal="me")
        else:
            assert await asked.problem(request_) == "was declined"


@pytest.mark.parametrize(
    ("keys", "text"), [("1", "left"), ("2", "right"), ("right", "right")]
)
async def test_an_option_is_chosen_by_number_or_text(keys: str, text: str) -> None:
    async with asking() as asked:
        asked.ask(CHOICE)
        await asked.terminal.sees("Number or text: ")

        await asked.terminal.types(f"{keys}\n")

        assert (await asked.answer(CHOICE)).value == text


async def test_a_text_that_is_an_option_is_not_taken_for_a_number() -> None:
    async with asking() as asked:
        turned = replace(CHOICE, options=("2", "1"), schema={"enum": ["2", "1"]})
        asked.ask(turned)
        await asked.terminal.sees("Number or text: ")

        await asked.terminal.types("1\n")

        assert (await asked.answer(turned)).value == "1"


async def test_an_answer_that_does_not_fit_is_asked_for_again_with_the_reason() -> None:
    async with asking() as asked:
        number = replace(QUESTION, schema={"type": "integer"})
        asked.ask(number)
        await asked.terminal.sees("Answer: ")
        await asked.terminal.types("many\n")
        await asked.terminal.sees("Not taken: the answer does not fit")
        await asked.terminal.sees("Answer: ")

        await asked.terminal.types("42\n")

        assert (await asked.answer(number)).value == 42


async def test_letters_of_every_language_come_through() -> None:
    async with asking() as asked:
        asked.ask(QUESTION)
        await asked.terminal.sees("Answer: ")

        await asked.terminal.types("grüße, 左 🙂\n")

        assert (await asked.answer(QUESTION)).text == "grüße, 左 🙂"


async def test_what_is_too_long_for_a_terminal_is_not_cut() -> None:
    async with asking() as asked:
        asked.ask(QUESTION)
        await asked.terminal.sees("Answer: ")
        await asked.terminal.types("x" * 4_050 + "\n")

        await asked.terminal.sees("too long for a terminal")

        assert asked.outcomes == {}


@pytest.mark.parametrize(("keys", "approved"), [("yes", True), ("write_file", True)])
async def test_what_is_too_long_to_be_seen_at_once_is_paged_and_needs_a_word(
    keys: str, approved: bool
) -> None:
    async with asking(height=24) as asked:
        asked.ask(LONG)
        shown = await asked.terminal.sees("-- 1 of 4: Enter for more -- ")
        for page in (2, 3):
            await asked.terminal.types("\n")
            shown += await asked.terminal.sees(f"-- {page} of 4: Enter for more -- ")
        await asked.terminal.types("\n")
        shown += await asked.terminal.sees(LONG_PROMPT)
        for number in range(60):
            assert f"│ line {number}\n" in shown
        for key in ("y", "a"):
            await asked.terminal.types(f"{key}\n")
            await asked.terminal.sees(LONG_PROMPT)
        assert asked.outcomes == {}

        await asked.terminal.types(f"{keys}\n")

        assert (await asked.answer(LONG)).approved is approved


async def test_no_key_that_turns_pages_approves() -> None:
    async with asking(height=24) as asked:
        asked.ask(LONG)
        for page in (1, 2, 3):
            await asked.terminal.sees(f"-- {page} of 4: Enter for more -- ")
            await asked.terminal.types("yes\n")
        await asked.terminal.sees(LONG_PROMPT)
        assert asked.outcomes == {}


@pytest.mark.parametrize("keys", ["\x03", "\x04", "yes\x03"])
async def test_ctrl_c_and_the_end_of_input_refuse_also_before_the_last_page(
    keys: str,
) -> None:
    async with asking(height=24) as asked:
        asked.ask(LONG)
        await asked.terminal.sees("Enter for more -- ")

        await asked.terminal.types(keys)

        assert await asked.answer(LONG) == Answer(principal="me")
        assert LONG_PROMPT not in asked.terminal.seen


async def test_a_long_question_is_declined_before_the_last_page() -> None:
    async with asking(height=24) as asked:
        long = replace(QUESTION, details=LONG.details)
        asked.ask(long)
        await asked.terminal.sees("Enter for more -- ")

        await asked.terminal.types("\x03")

        assert await asked.problem(long) == "was declined"


@pytest.mark.parametrize(
    ("height", "width"), [(5, 80), (2, 80), (1, 80), (24, 19), (24, 7), (3, 3), (0, 0)]
)
async def test_on_a_terminal_that_shows_too_little_no_single_key_approves(
    height: int, width: int
) -> None:
    async with asking(height=height, width=width) as asked:
        asked.ask(APPROVAL)
        async for _ in pages(asked.terminal):
            await asked.terminal.types("\n")

        await asked.terminal.types("y\n")
        await asked.terminal.sees(LONG_WORDS)
        assert asked.outcomes == {}
        await asked.terminal.types("yes\n")
        assert (await asked.answer(APPROVAL)).approved


async def test_no_page_is_longer_than_the_screen() -> None:
    async with asking(height=8, width=30) as asked:
        asked.ask(APPROVAL)
        async for page in pages(asked.terminal):
            assert len(page.split("\n")) <= 8
            assert max(len(line) for line in page.split("\n")[:-1]) < 30
            await asked.terminal.types("\n")


async def pages(terminal: Seat) -> AsyncGenerator[str]:
    """Give each page but the last, and return at the prompt for an approval."""
    while not (page := await terminal.sees(": ")).endswith("[n]o: "):
        if re.search(r"-- \d+ of \d+: $", page):
            await terminal.sees(" -- ")
            yield page


def shown(details: dict[str, object], width: int = 80) -> list[str]:
    return rendered(replace(APPROVAL, details=details), width=width)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a.b": 1}, {"a": {"b": 1}}),
        ({"a": {"b.c": 1}}, {"a": {"b": {"c": 1}}}),
        ({'"a"': 1}, {"a": 1}),
        ({"": 1}, {'""': 1}),
        ({"\u3164": 1}, {"\\u3164": 1}),
        ({"x" * 500: 1}, {"x" * 499: 1}),
        ({"x" * 120 + "a": 1}, {"x" * 120 + "b": 1}),
        ({"a": "1"}, {"a": 1}),
        ({"a": {}}, {"a": "{}"}),
        ({"a": {"b": {"c": {"d": 1}}}}, {"a": {"b": {"c": '{"d": 1}'}}}),
    ],
)
def test_two_actions_never_look_the_same(
    first: dict[str, object], second: dict[str, object]
) -> None:
    assert shown(first) != shown(second)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_nothing_of_a_long_name_or_value_is_left_out(width: int) -> None:
    name = "".join(f"_{number}" for number in range(200))
    value = "".join(f"{number} " for number in range(200)) + "ü漢" * 40

    lines = shown({name: value}, width)

    names = min(28, width // 3)
    assert name in "".join(line[:names].strip() for line in lines)
    told = "".join(line[names:].replace(" ", "") for line in lines)
    assert value.replace(" ", "") in told
    assert max(cell_len(line) for line in lines) <= width


def test_the_rest_of_a_long_name_cannot_look_like_the_next_field() -> None:
    lines = shown({"x" * 28 + "tool": 'y"' * 100, "tool": "delete_all"})

    assert len([line for line in lines if line.startswith("tool")]) == 1


async def test_showing_a_megabyte_holds_up_nobody() -> None:
    late = 0.0
    async with asking() as asked:
        large = replace(APPROVAL, details={"content": "é" * 400_000})
        asked.ask(large)
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal late
                while True:
                    before = anyio.current_time()
                    await anyio.sleep(0.001)
                    late = max(late, anyio.current_time() - before)

            tasks.start_soon(watch)
            await asked.terminal.sees("Enter for more")
            tasks.cancel_scope.cancel()

    assert late < 0.3


async def test_what_was_typed_before_a_question_does_not_answer_it() -> None:
    async with asking() as asked:
        await asked.terminal.types("yes\nyes\nyes\n")
        await asked.terminal.sees("yes\nyes\nyes\n")
        asked.ask(APPROVAL)
        await asked.terminal.sees(SHORT_PROMPT)

        await asked.terminal.types("n\n")

        assert not (await asked.answer(APPROVAL)).approved


async def test_what_is_pasted_answers_one_question() -> None:
    async with asking() as asked:
        other = replace(APPROVAL, id="run:ask_2")
        asked.ask(APPROVAL)
        await asked.terminal.sees(SHORT_PROMPT)
        asked.ask(other)
        await anyio.lowlevel.checkpoint()

        await asked.terminal.types("y\ny\ny\n")

        assert (await asked.answer(APPROVAL)).approved
        await asked.terminal.sees(SHORT_PROMPT)
        await asked.terminal.types("n\n")
        assert not (await asked.answer(other)).approved


HOSTILE = {
    "\x1b[2J\x1b[1;1H": "\\u001b[2J\\u001b[1;1H",
    "\x1b]0;title\x07": "\\u001b]0;title\\u0007",
    "a\rb": "a\\rb",
    "a\x08b": "a\\bb",
    "\x9b31m": "\\u009b31m",
    "safe\u202egnp.exe": "safe\\u202egnp.exe",
    "\u2066x\u2069": "\\u2066x\\u2069",
    "a\u200bb": "a\\u200bb",
    "a\u00a0b": "a\\u00a0b",
    "a\u2028b": "a\\u2028b",
    "a\ufeffb": "a\\ufeffb",
    "a\u00adb": "a\\u00adb",
    "a\u0336b": "a\\u0336b",
    "a\u0301\u0301\u0301b": "a\u0301\u0301\\u0301b",
    "a\ufe0fb": "a\\ufe0fb",
    "a\u3164b": "a\\u3164b",
    "a\u2800b": "a\\u2800b",
    "a\u20ddb": "a\\u20ddb",
    "हिन्दी ภาษาไทย tiếng Việt": "हिन्दी ภาษาไทย tiếng Việt",
    "a\U000e0041b": "a\\U000e0041b",
    "a\x00b": "a\\u0000b",
    "a\x7fb": "a\\u007fb",
    "[bold]x[/bold]": "[bold]x[/bold]",
    "[link=http://evil]y[/link]": "[link=http://evil]y[/link]",
    ":warning:": ":warning:",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items(), ids=range(len(HOSTILE)))
@pytest.mark.parametrize("where", ["text", "value", "key", "option", "agent", "progress"])
async def test_nothing_that_was_written_pretends_to_be_something_else(
    text: str, shown: str, where: str
) -> None:
    request: PendingRequest = {
        "text": replace(APPROVAL, text=text),
        "value": replace(APPROVAL, details={"a": {"b": [text, text + "\n"]}, "c": text}),
        "key": replace(APPROVAL, details={text: {text: 1}}),
        "option": replace(CHOICE, options=(text, "x"), schema={}),
        "agent": replace(APPROVAL, agent_path=(text,), principal=text),
        "progress": QUESTION,
    }[where]
    if where not in ("value", "key"):  # which are quoted as JSON
        shown = shown.replace("\\r", "\\u000d").replace("\\b", "\\u0008")
    async with asking(width=160) as asked:
        if where == "progress":
            await asked.protocol.progress(text)
        asked.ask(request)
        seen = await asked.terminal.sees("run:ask_1")
        seen += await asked.terminal.sees(": ")

        if where == "key":  # a column of its own, in which it is folded
            lines = [line[:28].strip() for line in seen.split("\n")]
            assert shown.replace(" ", "") in "".join(lines).replace(" ", "")
        else:
            assert shown in seen
        for character in seen.replace("\n", ""):
            assert visible(character) == character, ascii(seen)
            assert character.isprintable(), ascii(seen)


async def test_a_long_value_that_is_folded_cannot_look_like_a_field() -> None:
    spoof = "x " * 60 + 'tool  "read_file"'
    async with asking(width=80) as asked:
        asked.ask(replace(APPROVAL, details={"tool": "delete_all", "reason": spoof}))

        seen = await asked.terminal.sees(SHORT_PROMPT)

        assert [line for line in seen.split("\n") if line.startswith("tool")] == [
            line for line in seen.split("\n") if "delete_all" in line
        ]


async def test_questions_are_asked_one_after_the_other() -> None:
    requests = [
        replace(QUESTION, id=f"run:ask_{number}", text=f"Question {number}?")
        for number in range(4)
    ]
    async with asking() as asked:
        for request in requests:
            asked.ask(request)
        for _ in requests:
            shown = await asked.terminal.sees("Answer: ")
            (named,) = [each for each in requests if each.text in shown]
            await asked.terminal.types(f"for {named.id}\n")

        for request in requests:
            assert (await asked.answer(request)).text == f"for {request.id}"


async def test_a_question_that_is_withdrawn_makes_place_for_the_next() -> None:
    async with asking() as asked:
        other = replace(QUESTION, id="run:ask_2", text="And now?")
        asked.ask(QUESTION)
        await asked.terminal.sees("Answer: ")
        asked.ask(other)

        asked.scopes[QUESTION.id].cancel()

        await asked.terminal.sees("(This was withdrawn.)")
        await asked.terminal.sees("And now?")
        await asked.terminal.sees("Answer: ")
        await asked.terminal.types("yes\n")
        assert (await asked.answer(other)).text == "yes"


async def test_a_question_that_expires_is_taken_from_the_screen() -> None:
    async with asking() as asked:
        brief = replace(QUESTION, expires_at=time() + 0.3)
        asked.ask(brief)
        await asked.terminal.sees("Answer: ")

        await asked.terminal.sees("(This was expired.)")

        assert await asked.problem(brief) == "has expired"


async def test_progress_is_a_line_and_waits_while_somebody_is_asked() -> None:
    async with asking() as asked:
        await asked.protocol.progress("one", percentage=50)
        await asked.terminal.sees(" 50 % one\n")
        asked.ask(QUESTION)
        await asked.terminal.sees("Answer: ")
        await asked.protocol.progress("two")
        await asked.terminal.types("left\n")

        shown = await asked.terminal.sees("two\n")

        assert shown == "left\ntwo\n"


async def test_the_terminal_is_left_as_it_was() -> None:
    with seat() as terminal:
        before = termios.tcgetattr(terminal.slave)
        transport = CLITransport(terminal.slave, terminal.slave)
        async with ControlProtocol(transport) as protocol:
            asked = Asked(terminal, protocol)
            async with asked.tasks:
                asked.ask(APPROVAL)
                await terminal.sees(SHORT_PROMPT)
                during = termios.tcgetattr(terminal.slave)
                asked.tasks.cancel_scope.cancel()

        assert during != before
        assert termios.tcgetattr(terminal.slave) == before


async def test_reading_takes_no_thread_and_blocks_nothing() -> None:
    async with asking() as asked:
        threads = threading.active_count()
        asked.ask(QUESTION)
        await asked.terminal.sees("Answer: ")

        for _ in range(100):
            await anyio.lowlevel.checkpoint()

        assert threading.active_count() == threads


async def test_when_the_terminal_goes_the_question_is_not_answered() -> None:
    async with asking() as asked:
        asked.ask(APPROVAL)
        await asked.terminal.sees(SHORT_PROMPT)

        asked.terminal.hang_up()

        problem = await asked.problem(APPROVAL)
        assert problem == "was not answered: the terminal is gone"


async def test_a_question_whose_turn_comes_when_the_terminal_is_taken_is_declined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def taken(*_: object) -> Terminal:
        raise TransportClosedError("the program is in the background")

    async with asking() as asked:
        other = replace(QUESTION, id="run:ask_2")
        asked.ask(QUESTION)
        await asked.terminal.sees("Answer: ")
        asked.ask(other)
        with anyio.fail_after(5):
            while other not in asked.protocol.open_requests:
                await anyio.lowlevel.checkpoint()
        with monkeypatch.context() as patched:
            patched.setattr(Terminal, "find", taken)
            await asked.terminal.types("left\n")
            assert (await asked.answer(QUESTION)).text == "left"
            assert await asked.problem(other) == "was declined"

        asked.ask(other)
        await asked.terminal.sees("Answer: ")


async def test_without_a_terminal_it_says_how_to_answer_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_text("yes\n" * 100, encoding="utf-8")
    with path.open(encoding="utf-8") as file:
        transport = CLITransport(file.fileno(), file.fileno())
        async with ControlProtocol(transport) as protocol:
            await protocol.progress("half way")
            with pytest.raises(NotAnsweredError) as caught:
                await protocol.ask(APPROVAL)

    assert "no terminal to read from" in caught.value.problem
    assert "channel = 'http'" in caught.value.problem
    assert "kaizen requests answer" in caught.value.problem


PROGRAM = """
    import fcntl, os, sys, termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    import anyio
    from kaizen import NotAnsweredError, PendingRequest
    from kaizen_control import CLITransport, ControlProtocol, TransportClosedError

    async def main():
        request = PendingRequest(id="run:ask_1", kind="approval", text="Go on?")
        async with ControlProtocol(CLITransport()) as protocol:
            answer = await protocol.ask(request)
        os.write(2, f"<{answer.approved} {answer.principal}>".encode())

    anyio.run(main, backend=sys.argv[1])
"""


def started(program: str, backend: str, terminal: Seat) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program, backend],
        stdin=terminal.slave,
        stdout=terminal.slave,
        stderr=terminal.slave,
        start_new_session=True,
    )


@pytest.mark.parametrize(("keys", "said"), [("y\n", "<True "), ("\x03", "<False ")])
async def test_a_whole_program_asks_at_its_own_terminal(
    keys: str, said: str, anyio_backend: str
) -> None:
    with seat() as terminal:
        process = started(textwrap.dedent(PROGRAM), anyio_backend, terminal)
        try:
            await terminal.sees(SHORT_PROMPT)
            await terminal.types(keys)
            await terminal.sees(said)
            with anyio.fail_after(10):
                assert await to_thread.run_sync(process.wait) == 0
        finally:
            process.kill()
            process.wait()


async def test_a_program_in_the_background_is_not_stopped_but_refuses(
    anyio_backend: str,
) -> None:
    program = textwrap.dedent(PROGRAM).replace(
        "anyio.run(main",
        "os.fork() and os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "os.setpgid(0, 0)\nanyio.run(main",
    )
    with seat() as terminal:
        process = started(program, anyio_backend, terminal)
        try:
            await terminal.sees("is in the background")
            with anyio.fail_after(10):
                assert await to_thread.run_sync(process.wait) != 0
        finally:
            process.kill()
            process.wait()


def test_the_name_of_the_user_is_not_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("USER", "somebody-else")
    monkeypatch.setenv("LOGNAME", "somebody-else")

    assert CLITransport()._principal != "somebody-else"
    assert os.getuid() >= 0
