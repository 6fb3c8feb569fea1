"""The page in a real browser: what people see of requests, and answer them with."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from kaizen import PendingRequest

from tests.plugins.control._served import TOKEN, Served, served

if TYPE_CHECKING:
    from playwright.async_api import Page

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no browser"),
]
# Without a sandbox, since it shows only our page; and it asks nobody else for anything.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def anyio_backend() -> str:
    """The server, and what drives the browser, run on asyncio alone."""
    return "asyncio"


def approval(**details: object) -> PendingRequest:
    return PendingRequest(
        id="run:ask_1",
        kind="approval",
        text="May it pay?",
        details={"tool": "pay", **details},
        action_digest=DIGEST,
    )


@asynccontextmanager
async def browser() -> AsyncGenerator[Page]:
    """A page of a browser with nothing in it."""
    playwright = pytest.importorskip("playwright.async_api")
    async with playwright.async_playwright() as programs:
        chromium = await programs.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await chromium.new_page()
        page.set_default_timeout(10_000)
        yield page
        await chromium.close()


@asynccontextmanager
async def opened(server: Served) -> AsyncGenerator[Page]:
    """The page as it is before somebody has entered a token."""
    async with browser() as page:
        await page.goto(server.transport.url)
        yield page


async def enter(page: Page, token: str = TOKEN) -> None:
    await page.fill("#token", token)
    await page.click("#enter button")


async def test_a_wrong_token_is_refused_and_the_right_one_taken() -> None:
    async with served() as server, opened(server) as page:
        await enter(page, "wrong")
        await page.wait_for_selector("text=the token was refused")
        assert await page.is_visible("#enter")

        await enter(page)
        await page.wait_for_selector("#state:text-is('connected')")

        assert not await page.is_visible("#enter")


async def test_the_token_in_the_address_is_taken_and_shown_no_longer() -> None:
    async with served() as server, opened(server) as page:
        await page.goto("about:blank")
        await page.goto(f"{server.transport.url}#{TOKEN}")

        await page.wait_for_selector("#state:text-is('connected')")

        assert page.url == server.transport.url


async def test_questions_are_answered_by_a_click_and_by_text() -> None:
    which = PendingRequest(
        id="a/b", kind="question", text="Which way?", options=("left", "right")
    )
    many = PendingRequest(id="c", kind="question", text="How many?")
    async with served() as server, opened(server) as page:
        await enter(page)
        await server.ask(which)
        await server.ask(many)

        await page.click("button:text-is('right')")
        box = page.locator("article", has_text="How many?")
        await box.locator("input").fill("three")
        await box.locator("button").click()

        assert (await server.answered(which)).text == "right"
        assert (await server.answered(many)).text == "three"
        await page.wait_for_selector("article", state="detached")


@pytest.mark.parametrize("word", ["Approve", "Refuse"])
async def test_an_action_is_approved_or_refused_with_a_comment(word: str) -> None:
    request = approval(arguments={"to": "Ada", "amount": 5})
    async with served() as server, opened(server) as page:
        await enter(page)
        await server.ask(request)

        await page.fill("article input", "so it is")
        await page.press("article input", "Enter")  # decides nothing
        await page.click(f"button:text-is('{word}')")

        answer = await server.answered(request)
        assert answer.approved is (word == "Approve")
        assert answer.text == "so it is"


async def test_what_a_model_wrote_is_text_and_hides_nothing() -> None:
    text = "Ada\u202e <img src=x onerror=\"document.title='taken'\">\u200b"
    async with served() as server, opened(server) as page:
        await enter(page)
        await server.ask(approval(arguments={"to": text}))

        shown = await page.inner_text("dd:has-text('Ada')")

        assert "\\u{202e} <img src=x" in shown
        assert "\\u{200b}" in shown
        assert await page.locator("img").count() == 0
        assert await page.title() == "Kaizen asks"


async def test_one_click_approves_nothing_that_is_too_long_to_be_seen() -> None:
    request = approval(arguments={"text": "line\n" * 100}, rule="pay(*)")
    async with served() as server, opened(server) as page:
        await enter(page)
        await server.ask(request)
        approve = page.locator("button:text-is('Approve')")

        assert await approve.is_disabled()
        assert await page.locator("button", has_text="Always").count() == 0
        await page.fill("article input", "pay")
        await approve.click()

        assert (await server.answered(request)).approved


async def test_an_answer_that_comes_too_late_is_told_to_who_gave_it() -> None:
    request = approval()
    async with served() as server, opened(server) as page:
        await enter(page)
        await server.ask(request)
        await page.wait_for_selector("article")
        # The page is held back, so that it does not hear of the other answer first.
        await page.evaluate("take = () => {}")
        reply = await server.client.answer(request.id, approved=False, action_digest=DIGEST)
        assert reply.status == 200

        await page.click("button:text-is('Approve')")
        await page.wait_for_selector(".refused:not(:empty)")

        assert not (await server.answered(request)).approved


async def test_the_page_finds_a_server_that_was_started_again() -> None:
    before, after = approval(), replace(approval(), id="run:ask_2", text="And now?")
    async with browser() as page:
        async with served() as server:
            await page.goto(server.transport.url)
            await enter(page)
            await server.ask(before)
            await page.wait_for_selector("text=May it pay?")
            port = server.client.port

        async with served(port=port) as server:
            await server.ask(after)

            await page.wait_for_selector("text=And now?")

            assert await page.locator("article").count() == 1
