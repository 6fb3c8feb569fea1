"""One async fixture serves tests that anyio runs and tests that pytest-asyncio runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A fixture as the kernel's own is: it holds a task group open while the test runs, and
# sets a context variable, which it resets.
PLUGIN = """
from contextvars import ContextVar

import anyio
import pytest

from kaizen.testing._fixtures import async_fixture, pytest_fixture_setup

CURRENT = ContextVar("CURRENT", default="nothing")
left = []


class Service:
    def __init__(self):
        self.asked, self.answered = anyio.Event(), anyio.Event()

    async def serve(self):
        await self.asked.wait()
        self.answered.set()

    async def ask(self):
        self.asked.set()
        with anyio.fail_after(5):
            await self.answered.wait()


@pytest.fixture
def greeting():
    return "hello"


@async_fixture
async def service(greeting):
    async with anyio.create_task_group() as tasks:
        token = CURRENT.set(greeting)
        service = Service()
        tasks.start_soon(service.serve)
        yield service
        CURRENT.reset(token)
        tasks.cancel_scope.cancel()
    left.append("service")


@async_fixture
async def broken():
    raise LookupError("no such service")
    yield


@async_fixture
async def broken_later():
    yield
    raise LookupError("the service went away")
"""

ONE_TEST = """
import service_plugin

async def test_the_service_answers(service):
    await service.ask()
    assert service_plugin.CURRENT.get() == "hello"

def test_the_fixture_was_left():
    assert len(service_plugin.left) == {times}
    assert service_plugin.CURRENT.get() == "nothing"
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project whose plugin offers async fixtures, and whose warnings are errors."""
    pytester.makepyfile(service_plugin=PLUGIN)
    pytester.makeini("[pytest]\nfilterwarnings = error")
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    if "no:asyncio" not in options:
        options = ("-o", "asyncio_default_fixture_loop_scope=function", *options)
    return project.runpytest_subprocess(
        "-p", "service_plugin", "-p", "no:randomly", "-p", "no:cacheprovider", *options
    )


def marked(mark: str, times: int) -> str:
    asynchronous, plain = ONE_TEST.format(times=times).split("async def")
    return f"import pytest\n{asynchronous}@pytest.mark.{mark}\nasync def{plain}"


# Either plugin may be loaded first; neither order may matter.
orders = pytest.mark.parametrize(
    "order",
    [
        pytest.param(("anyio", "pytest_asyncio"), id="anyio-first"),
        pytest.param(("pytest_asyncio", "anyio"), id="asyncio-first"),
    ],
)


def loaded_in(order: tuple[str, ...]) -> list[str]:
    modules = {"anyio": "anyio.pytest_plugin", "pytest_asyncio": "pytest_asyncio.plugin"}
    return [option for name in order for option in ("-p", modules[name])]


@orders
def test_a_fixture_lives_in_anyio_tests_on_both_backends(
    project: pytest.Pytester, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    project.makepyfile(marked("anyio", times=2))

    result = run(project, *loaded_in(order), "-v")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines_random(["*answers[[]asyncio[]]*", "*answers[[]trio[]]*"])


@orders
def test_a_fixture_lives_in_pytest_asyncio_tests_in_strict_mode(
    project: pytest.Pytester, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    project.makepyfile(marked("asyncio", times=1))

    run(project, *loaded_in(order), "--asyncio-mode=strict").assert_outcomes(passed=2)


@orders
def test_a_fixture_lives_in_pytest_asyncio_tests_in_auto_mode(
    project: pytest.Pytester, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    project.makepyfile(ONE_TEST.format(times=1))

    run(project, *loaded_in(order), "--asyncio-mode=auto").assert_outcomes(passed=2)


def test_anyio_suffices_where_pytest_asyncio_is_not_installed(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(pytest_asyncio="raise ImportError('not installed')")
    project.makepyfile(marked("anyio", times=2))

    run(project, "-p", "no:asyncio").assert_outcomes(passed=3)


def test_pytest_asyncio_suffices_where_the_plugin_of_anyio_is_off(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(marked("asyncio", times=1))

    run(project, "-p", "no:anyio").assert_outcomes(passed=2)


def test_a_test_that_is_not_async_is_told_what_the_fixture_needs(
    project: pytest.Pytester,
) -> None:
    project.makepyfile("def test_not_async(service): pass")

    result = run(project, "-p", "no:asyncio")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'service' is async*pytest.mark.anyio*"])


@pytest.mark.parametrize("mark", ["anyio", "asyncio"])
def test_a_fixture_that_fails_fails_its_test_with_its_own_error(
    project: pytest.Pytester, mark: str
) -> None:
    project.makepyfile(f"""
        import pytest
        pytestmark = pytest.mark.{mark}

        async def test_before(broken): pass
        async def test_after(broken_later): pass
    """)

    result = run(project)

    times = 2 if mark == "anyio" else 1
    result.assert_outcomes(passed=times, errors=2 * times)
    result.stdout.fnmatch_lines_random(["*no such service*", "*the service went away*"])


def test_starting_pytest_imports_no_part_of_the_kernel_that_is_slow() -> None:
    program = "import sys, kaizen.testing.pytest_plugin; print(*sys.modules)"

    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True
    ).stdout

    assert not {"pydantic", "pydantic_core", "trio"} & set(output.split())
