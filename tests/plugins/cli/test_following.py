"""What is shown of a run while it is under way."""

from __future__ import annotations

from kaizen.runlog import Continued, Paused, ToolFinished, ToolIntended
from kaizen_cli._following import Spinner
from kaizen_cli._options import Options
from kaizen_cli._terminal import Terminal


def test_a_pause_is_shown_until_the_run_goes_on() -> None:
    began = ToolIntended(
        seq=3,
        at=1.0,
        call_id="1",
        name="dig",
        arguments={},
        idempotency_key="run:1",
        idempotent=False,
        cycle=1,
    )
    ended = ToolFinished(
        seq=5,
        at=1.0,
        call_id="1",
        name="dig",
        success=True,
        approved=True,
        content="",
        error_code="",
        duration_ms=1.0,
    )
    paused, goes_on = Paused(seq=4, at=1.0, by="ann"), Continued(seq=6, at=1.0)
    spinner = Spinner(Terminal(Options()))

    shown = []
    for event in (began, paused, ended, goes_on, began, ended):
        spinner.show(event)
        shown.append(str(spinner._status.status).strip())

    while_paused = ["dig", "paused by ann", "paused by ann"]
    assert shown == [*while_paused, "goes on", "dig", "thinking"]
