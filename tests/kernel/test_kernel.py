"""Starting and stopping a kernel: discovery, plugins, settings, ports."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from kaizen import (
    BaseAgent,
    Kernel,
    PluginSettings,
    Provider,
    Registry,
    Tool,
    hookimpl,
)
from kaizen.errors import (
    AgentCreationError,
    ConfigurationError,
    HookRegistrationError,
    InitializationError,
    PluginError,
    UnknownNameError,
)
from kaizen.testing import ModelPlugin, ScriptedModel
from pydantic import Field, SecretStr

pytestmark = pytest.mark.anyio


def alone(**options: Any) -> Kernel:
    """A kernel that finds nothing by itself."""
    return Kernel(**{"discover": False, "config_file": False, "environ": {}, **options})


class Tracked:
    """Writes down when it starts and stops."""

    def __init__(self, name: str, trail: list[str], *, fail: str = "") -> None:
        self.name = name
        self._trail = trail
        self._fail = fail

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        if self._fail == "start":
            raise OSError("no disk")
        self._trail.append(f"{self.name} starts")
        try:
            yield
        finally:
            self._trail.append(f"{self.name} stops")
        if self._fail == "stop":
            raise OSError("cannot close")

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(Tool, f"tool_of_{self.name}", object())


async def test_lifespans_are_entered_in_order_and_left_in_reverse() -> None:
    trail: list[str] = []
    async with alone(plugins=[Tracked("a", trail), Tracked("b", trail)]):
        trail.append("running")
    assert trail == ["a starts", "b starts", "running", "b stops", "a stops"]


async def test_every_lifespan_is_left_even_when_one_fails() -> None:
    trail: list[str] = []
    with pytest.raises(OSError, match="cannot close"):
        async with alone(plugins=[Tracked("a", trail), Tracked("b", trail, fail="stop")]):
            pass
    assert trail == ["a starts", "b starts", "b stops", "a stops"]


async def test_a_plugin_that_fails_to_start_stops_those_before_it() -> None:
    trail: list[str] = []
    kernel = alone(plugins=[Tracked("a", trail), Tracked("b", trail, fail="start")])
    with pytest.raises(PluginError, match="plugin 'b' could not start: OSError: no disk"):
        await kernel.__aenter__()
    assert trail == ["a starts", "a stops"]
    assert not kernel.running


async def test_a_plugin_that_fails_is_left_out_whole_if_so_wanted() -> None:
    trail: list[str] = []

    class Late(Tracked):
        @hookimpl
        async def pre_cycle(self, event: Any) -> None: ...

        @hookimpl
        def contribute(self, registry: Registry) -> None:
            registry.add(Tool, "half", object())
            raise ValueError("half way")

    plugins = [Tracked("a", trail), Late("late", trail), Tracked("b", trail)]
    async with alone(plugins=plugins, on_plugin_error="skip") as kernel:
        assert {info.name: info.status for info in kernel.plugins} == {
            "a": "enabled",
            "late": "failed",
            "b": "enabled",
        }
        assert kernel.registry.names(Tool) == ("tool_of_a", "tool_of_b")
        assert kernel.hooks.names() == ("a", "b")
        failed = next(info for info in kernel.plugins if info.name == "late")
        assert "half way" in str(failed.error)
    assert trail[:3] == ["a starts", "late starts", "late stops"]


async def test_an_error_of_the_application_passes_through_unwrapped() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with alone():
            raise KeyError("mine")


async def test_a_kernel_can_be_cancelled() -> None:
    trail: list[str] = []
    with anyio.move_on_after(0.01) as scope:
        async with alone(plugins=[Tracked("a", trail)]):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert trail[0] == "a starts"


async def test_a_kernel_is_started_once_at_a_time_but_again_later() -> None:
    kernel = alone()
    async with kernel:
        with pytest.raises(InitializationError, match="running already"):
            await kernel.__aenter__()
        assert kernel.running
    assert not kernel.running
    async with kernel:
        assert kernel.running


async def test_kernels_share_nothing() -> None:
    trail: list[str] = []
    async with alone(plugins=[Tracked("a", trail)]) as first, alone() as second:
        assert first.registry.names(Tool) == ("tool_of_a",)
        assert second.registry.names(Tool) == ()
        assert second.hooks.names() == ()


async def test_two_plugins_of_one_name_are_refused() -> None:
    trail: list[str] = []
    with pytest.raises(PluginError, match="plugin 'a' is given twice"):
        async with alone(plugins=[Tracked("a", trail), Tracked("a", trail)]):
            pass


async def test_two_offers_of_one_name_are_refused_and_name_the_first() -> None:
    trail: list[str] = []
    first, second = Tracked("a", trail), Tracked("a", trail)
    second.name = "b"

    class Same(Tracked):
        @hookimpl
        def contribute(self, registry: Registry) -> None:
            registry.add(Tool, "tool_of_a", object())

    with pytest.raises(PluginError, match="offered by plugin 'a' already"):
        async with alone(plugins=[first, Same("b", trail)]):
            pass


async def test_a_constructor_that_raises_names_the_plugin() -> None:
    class BrokenPlugin:
        def __init__(self) -> None:
            raise ZeroDivisionError("oops")

    with pytest.raises(
        PluginError, match="plugin 'broken' could not be made: ZeroDivision"
    ):
        async with alone(plugins=[BrokenPlugin]):
            pass


async def test_a_misspelt_hook_names_the_plugin_and_the_hook() -> None:
    class TypoPlugin:
        @hookimpl
        async def wrap_tool_cal(self, call: Any, call_next: Any) -> Any: ...

    with pytest.raises(PluginError, match=r"'typo'.*'wrap_tool_cal'.*'wrap_tool_call'"):
        async with alone(plugins=[TypoPlugin]):
            pass


async def test_an_unknown_plugin_name_lists_the_installed() -> None:
    with pytest.raises(PluginError, match="'nosuch' is not installed; installed are"):
        async with alone(plugins=["nosuch"]):
            pass


# Installed plugins, as real distributions on the path.


def install(folder: Path, name: str, code: str, *, distribution: str = "") -> None:
    distribution = distribution or f"kaizen-{name}"
    module = f"{distribution.replace('-', '_')}_module"
    info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(
        f"[kaizen.plugins]\n{name} = {module}:ThePlugin\n", encoding="utf-8"
    )
    (folder / f"{module}.py").write_text(code, encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *_without_plugins()])
    return folder


def _without_plugins() -> list[str]:
    """The path, without the plugins that happen to be installed where the tests run."""
    return [each for each in sys.path if "site-packages" not in each and "/src" not in each]


GOOD = "class ThePlugin:\n    def __init__(self):\n        pass\n"


async def test_installed_plugins_are_found_and_enabled(site: Path) -> None:
    install(site, "zeta", GOOD)
    install(site, "alpha", GOOD)
    async with Kernel(config_file=False, environ={}) as kernel:
        found = [(info.name, info.distribution, info.version) for info in kernel.plugins]
    assert found == [("alpha", "kaizen-alpha", "1.2"), ("zeta", "kaizen-zeta", "1.2")]


async def test_code_of_a_plugin_that_is_not_enabled_is_never_imported(site: Path) -> None:
    install(site, "wanted", GOOD)
    install(site, "other", "raise SystemExit('imported!')\n")
    async with Kernel(plugins=["wanted"], config_file=False, environ={}) as kernel:
        assert {info.name: info.status for info in kernel.plugins} == {
            "wanted": "enabled",
            "other": "disabled",
        }


@pytest.mark.parametrize("variable", ["wanted", " wanted , "])
async def test_the_environment_says_which_plugins_are_enabled(
    site: Path, variable: str
) -> None:
    install(site, "wanted", GOOD)
    install(site, "other", "raise RuntimeError\n")
    async with Kernel(config_file=False, environ={"KAIZEN_PLUGINS": variable}) as kernel:
        assert [i.name for i in kernel.plugins if i.status == "enabled"] == ["wanted"]


async def test_a_plugin_that_cannot_be_imported_names_its_distribution(site: Path) -> None:
    install(site, "broken", "import nothing_of_that_name\n")
    with pytest.raises(PluginError) as caught:
        async with Kernel(config_file=False, environ={}):
            pass
    error = caught.value
    assert (error.plugin, error.distribution) == ("broken", "kaizen-broken")
    assert "nothing_of_that_name" in str(error)
    assert "leave it out" in str(error)


async def test_lenient_error_handling_comes_from_the_environment(site: Path) -> None:
    install(site, "broken", "1/0\n")
    install(site, "good", GOOD)
    async with Kernel(
        config_file=False, environ={"KAIZEN_ERROR_HANDLING": "lenient"}
    ) as kernel:
        assert {i.name: i.status for i in kernel.plugins} == {
            "good": "enabled",
            "broken": "failed",
        }


async def test_two_distributions_with_one_plugin_name_are_refused(site: Path) -> None:
    install(site, "same", GOOD, distribution="first")
    install(site, "same", GOOD, distribution="second")
    with pytest.raises(PluginError, match="brought by two distributions"):
        async with Kernel(config_file=False, environ={}):
            pass


async def test_the_order_in_the_file_comes_before_the_name(
    site: Path, tmp_path: Path
) -> None:
    for name in ("alpha", "beta", "gamma"):
        install(site, name, GOOD)
    file = tmp_path / "kaizen.toml"
    file.write_text("[plugins.gamma]\n[plugins.beta]\n", encoding="utf-8")
    async with Kernel(config_file=file, environ={}) as kernel:
        assert kernel.hooks.names() == ("gamma", "beta", "alpha")


# Settings.


class NotesPlugin:
    class Settings(PluginSettings):
        path: Path = Field(default=Path("notes"), description="Where.")
        size: int = 1
        key: SecretStr | None = None
        names: list[str] = Field(default_factory=list)
        pool: dict[str, int] = Field(default_factory=dict)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


async def settings_of(**options: Any) -> NotesPlugin.Settings:
    async with alone(plugins=[NotesPlugin], **options) as kernel:
        settings: NotesPlugin.Settings = kernel.plugins[0].plugin.settings
        return settings


async def test_code_is_stronger_than_environment_than_file_than_default(
    tmp_path: Path,
) -> None:
    file = tmp_path / "kaizen.toml"
    file.write_text("[plugins.notes]\npath = 'file'\nsize = 2\n", encoding="utf-8")
    environ = {"KAIZEN_NOTES__SIZE": "3", "KAIZEN_NOTES__NAMES": '["a"]'}
    code = {"notes": {"names": ["b"]}}

    settings = await settings_of(config_file=file, environ=environ, settings=code)

    assert (settings.path, settings.size, settings.names) == (Path("file"), 3, ["b"])
    assert (await settings_of()).size == 1


async def test_tables_are_merged_key_by_key() -> None:
    environ = {"KAIZEN_NOTES__POOL__MIN": "1", "KAIZEN_NOTES__POOL__MAX": "2"}
    settings = await settings_of(environ=environ, settings={"notes": {"pool": {"max": 9}}})
    assert settings.pool == {"min": 1, "max": 9}


async def test_a_secret_is_read_from_the_variable_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "kaizen.toml"
    file.write_text('[plugins.notes]\nkey = { env = "NOTES_KEY" }\n', encoding="utf-8")
    settings = await settings_of(config_file=file, environ={"NOTES_KEY": "s3cret"})
    assert settings.key is not None
    assert settings.key.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(settings)


async def test_a_secret_whose_variable_is_not_set_names_it(tmp_path: Path) -> None:
    file = tmp_path / "kaizen.toml"
    file.write_text('[plugins.notes]\nkey = { env = "NOTES_KEY" }\n', encoding="utf-8")
    with pytest.raises(
        PluginError, match="'NOTES_KEY' is named in the settings but not set"
    ):
        await settings_of(config_file=file)


async def test_an_unknown_key_is_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(PluginError, match=r"'pth'.*unknown; known: path, size"):
        await settings_of(settings={"notes": {"pth": "x"}})


async def test_a_wrong_type_is_refused_without_printing_the_value() -> None:
    with pytest.raises(PluginError) as caught:
        await settings_of(environ={"KAIZEN_NOTES__SIZE": "hunter2"})
    message = str(caught.value)
    assert "'size' (from the environment)" in message
    assert "hunter2" not in message
    assert "hunter2" not in str(caught.value.__cause__)


async def test_settings_for_a_plugin_that_there_is_not_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'notes'"):
        await settings_of(settings={"note": {}})


async def test_a_file_that_is_not_toml_names_itself(tmp_path: Path) -> None:
    file = tmp_path / "kaizen.toml"
    file.write_text("[plugins\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"kaizen\.toml.*not valid TOML"):
        await settings_of(config_file=file)


async def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await settings_of(config_file=tmp_path / "nosuch.toml")


async def test_an_unknown_table_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "kaizen.toml"
    file.write_text("[plugin.notes]\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="plugin is unknown"):
        await settings_of(config_file=file)


async def test_the_kernels_own_settings_have_the_same_order(tmp_path: Path) -> None:
    file = tmp_path / "kaizen.toml"
    file.write_text(
        "[kaizen]\ndefault_provider = 'file'\nhook_timeout = 1\n", encoding="utf-8"
    )
    environ = {"KAIZEN_DEFAULT_PROVIDER": "environment"}
    async with alone(config_file=file, environ=environ) as kernel:
        assert kernel.config.default_provider == "environment"
        assert kernel.hooks.timeout_s == 1
    async with alone(environ=environ, config={"default_provider": "code"}) as kernel:
        assert kernel.config.default_provider == "code"


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        ({"audit_enabled": True}, "kaizen-observability"),
        ({"cache_backend": "redis"}, "kaizen-cache"),
        ({"security_profile": "enterprise"}, "kaizen-security"),
        ({"monitoring_level": "detailed"}, "kaizen-observability"),
    ],
)
async def test_a_switch_that_nobody_serves_names_the_plugin_that_would(
    config: dict[str, Any], needed: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"pip install {needed}"):
        async with alone(config=config):
            pass


async def test_a_switch_that_a_plugin_serves_is_accepted() -> None:
    class AuditPlugin:
        serves = frozenset({"audit_enabled"})

    async with alone(plugins=[AuditPlugin], config={"audit_enabled": True}) as kernel:
        assert kernel.config.audit_enabled


# Ports.


class Offers:
    name = "offers"

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(Provider, "it", self._factory)


async def test_an_implementation_is_opened_once_and_closed_with_the_kernel() -> None:
    trail: list[str] = []

    @asynccontextmanager
    async def open_it() -> AsyncGenerator[object]:
        trail.append("opens")
        await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group():
            yield trail
        trail.append("closes")

    async with alone(plugins=[Offers(open_it)]) as kernel:
        found: list[object] = []

        async def ask() -> None:
            found.append(await kernel.get(Provider, "it"))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        assert found == [trail] * 5
        assert trail == ["opens"]
    assert trail == ["opens", "closes"]


async def test_factories_may_be_functions_coroutines_classes_or_objects() -> None:
    class Made:
        pass

    async def later() -> Made:
        return Made()

    instance = Made()
    for factory in (Made, Made, later, instance):
        async with alone(plugins=[Offers(factory)]) as kernel:
            assert isinstance(await kernel.get(Provider, "it"), Made)


async def test_an_implementation_that_fails_to_open_can_be_tried_again() -> None:
    attempts: list[int] = []

    def open_it() -> object:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("not yet")
        return "opened"

    async with alone(plugins=[Offers(open_it)]) as kernel:
        with pytest.raises(OSError, match="not yet"):
            await kernel.get(Provider, "it")  # type: ignore[type-abstract]
        opened: object = await kernel.get(Provider, "it")
        assert opened == "opened"


async def test_an_unknown_name_lists_the_known_and_what_to_install() -> None:
    async with alone(plugins=[Offers(object())]) as kernel:
        with pytest.raises(UnknownNameError) as caught:
            await kernel.get(Provider, "openai")  # type: ignore[type-abstract]
    assert "provider 'openai' is unknown" in str(caught.value)
    assert "Known: it." in str(caught.value)
    assert "pip install kaizen-direct" in str(caught.value)


async def test_nothing_is_opened_before_the_start_or_after_the_stop() -> None:
    kernel = alone(plugins=[Offers(object())])
    async with kernel:
        pass
    with pytest.raises(InitializationError, match="not running"):
        await kernel.get(Provider, "it")  # type: ignore[type-abstract]


async def test_a_plugin_may_bring_hooks_of_its_own() -> None:
    import pluggy

    hookspec = pluggy.HookspecMarker("kaizen")

    class Specs:
        @hookspec
        def greet(self, name: str) -> str:
            raise NotImplementedError

    class HostPlugin:
        hookspecs = Specs

    class GuestPlugin:
        @hookimpl(optionalhook=True)
        def greet(self, name: str) -> str:
            return f"hello {name}"

    async with alone(plugins=[GuestPlugin, HostPlugin]) as kernel:
        assert list(kernel.hooks.call("greet", name="you")) == [("guest", "hello you")]
    async with alone(plugins=[GuestPlugin]) as kernel:
        assert kernel.plugins[0].status == "enabled"


async def test_the_hooks_that_a_failed_plugin_brings_are_unknown() -> None:
    import pluggy

    hookspec = pluggy.HookspecMarker("kaizen")

    class Specs:
        @hookspec
        def greet(self, name: str) -> str:
            raise NotImplementedError

    class Guest:
        @hookimpl
        def greet(self, name: str) -> str:
            return f"hello {name}"

    host = Tracked("host", [], fail="start")
    host.hookspecs = Specs  # type: ignore[attr-defined]
    async with alone(plugins=[host, Guest], on_plugin_error="skip") as kernel:
        assert [each.status for each in kernel.plugins] == ["failed", "failed"]
        assert "unknown hook 'greet'" in str(kernel.plugins[1].error)
        with pytest.raises(HookRegistrationError, match="unknown hook 'greet'"):
            kernel.hooks.add(Guest())


class Named:
    """Offers factories under names, and gives them the kernel that it runs in."""

    name = "named"

    def __init__(self, **factories: Any) -> None:
        self._factories = factories
        self.kernel: Kernel

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        self.kernel = kernel
        yield

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        for name, factory in self._factories.items():
            registry.add(Provider, name, factory)


async def test_implementations_that_open_each_other_in_a_circle_are_refused() -> None:
    async def one() -> object:
        return await plugin.kernel.get(Provider, "two")

    async def two() -> object:
        return await plugin.kernel.get(Provider, "one")

    plugin = Named(one=one, two=two)
    with anyio.fail_after(5):
        async with alone(plugins=[plugin]) as kernel:
            with pytest.raises(
                InitializationError,
                match="Provider 'two' → Provider 'one' → Provider 'two' would wait",
            ):
                await kernel.get(Provider, "one")  # type: ignore[type-abstract]


async def test_a_circle_of_two_tasks_is_refused_as_well() -> None:
    both = 0
    ready = anyio.Event()
    refused: list[str] = []

    async def meet(other: str) -> object:
        nonlocal both
        both += 1
        if both == 2:
            ready.set()
        await ready.wait()
        return await plugin.kernel.get(Provider, other)

    async def ask(kernel: Kernel, name: str) -> None:
        try:
            await kernel.get(Provider, name)  # type: ignore[type-abstract]
        except InitializationError as error:
            refused.append(str(error))

    async def one() -> object:
        return await meet("two")

    async def two() -> object:
        return await meet("one")

    plugin = Named(one=one, two=two)
    with anyio.fail_after(5):
        async with alone(plugins=[plugin]) as kernel, anyio.create_task_group() as tasks:
            tasks.start_soon(ask, kernel, "one")
            tasks.start_soon(ask, kernel, "two")
    assert "would wait for itself" in refused[0]


async def test_what_one_implementation_asks_of_another_is_opened_once() -> None:
    async def one() -> object:
        return [await plugin.kernel.get(Provider, "two")]  # type: ignore[type-abstract]

    made = object()
    plugin = Named(one=one, two=lambda: made)
    async with alone(plugins=[plugin]) as kernel:
        opened: object = await kernel.get(Provider, "one")
        assert opened == [made]
        assert await kernel.get(Provider, "two") is made  # type: ignore[type-abstract]


async def test_what_a_plugin_offered_is_not_given_once_it_has_left() -> None:
    outcomes: list[str] = []

    class First:
        name = "first"

        @asynccontextmanager
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            yield
            try:
                await kernel.get(Provider, "it")  # type: ignore[type-abstract]
            except UnknownNameError as error:
                outcomes.append(error.name)

    async with alone(plugins=[First(), Offers(object())]) as kernel:
        await kernel.get(Provider, "it")  # type: ignore[type-abstract]
    assert outcomes == ["it"]


async def test_what_is_opened_while_its_plugin_leaves_is_closed_and_refused() -> None:
    trail: list[str] = []
    opening, leaving = anyio.Event(), anyio.Event()

    @asynccontextmanager
    async def slow() -> AsyncGenerator[object]:
        opening.set()
        await leaving.wait()
        yield trail
        trail.append("closed")

    class User:
        name = "user"

        @asynccontextmanager
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, kernel)
                yield

    async def ask(kernel: Kernel) -> None:
        await started.wait()
        with pytest.raises(InitializationError, match="plugin 'offers' has left"):
            await kernel.get(Provider, "it")  # type: ignore[type-abstract]
        trail.append("refused")

    class Leaves(Offers):
        @asynccontextmanager
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            yield
            trail.append("left")

    class Last:
        name = "last"

        @asynccontextmanager
        async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
            yield
            kernel.registry.remove_plugin("offers")
            leaving.set()

    started = anyio.Event()
    with anyio.fail_after(5):
        async with alone(plugins=[User(), Leaves(slow), Last()]):
            started.set()
            await opening.wait()
    assert trail.index("closed") < trail.index("left")
    assert "refused" in trail


async def test_ids_go_on_after_a_new_start_and_leave_out_those_that_were_claimed() -> None:
    kernel = alone()
    async with kernel:
        assert kernel.default_agent_id("x") == "x"
        kernel.claim_agent_id("x-2")
    async with kernel:
        assert kernel.default_agent_id("x") == "x-3"
        kernel.claim_agent_id("y")
        assert kernel.default_agent_id("y") == "y-2"


async def test_agents_have_the_same_ids_in_whatever_order_they_first_run() -> None:
    ids = []
    for order in ((0, 1, 2), (2, 1, 0)):
        async with alone(plugins=[ModelPlugin(ScriptedModel("a", "a", "a"))]) as kernel:
            config = {"llm_provider": "scripted"}
            agents = [
                BaseAgent(config, "question -> answer", kernel=kernel) for _ in range(3)
            ]
            for each in order:
                await agents[each].run(question="?")
            ids.append([each.agent_id for each in agents])

    assert ids[0] == ids[1] == ["QuestionAnswer", "QuestionAnswer-2", "QuestionAnswer-3"]


@pytest.mark.parametrize("chosen", ["QuestionAnswer", "QuestionAnswer-2"])
async def test_nobody_can_choose_an_id_that_another_agent_has_by_default(
    chosen: str,
) -> None:
    async with alone() as kernel:
        for _ in range(2):
            BaseAgent(signature="question -> answer", kernel=kernel)

        with pytest.raises(AgentCreationError, match="choose another"):
            BaseAgent(signature="question -> answer", kernel=kernel, agent_id=chosen)
        for free in ("QuestionAnswer-3", "QuestionAnswer-3", "QuestionAnswer-02"):
            made = BaseAgent(signature="question -> answer", kernel=kernel, agent_id=free)
            assert made.agent_id == free


async def test_the_id_of_an_agent_from_another_kernel_is_given_to_nobody_else() -> None:
    config = {"llm_provider": "scripted"}
    models = [ModelPlugin(ScriptedModel("a", "a")) for _ in range(2)]
    async with alone(plugins=models[:1]) as one, alone(plugins=models[1:]) as two:
        agent = BaseAgent(config, "question -> answer", kernel=one)
        bound = agent.bind(kernel=two)
        await bound.run(question="?")

        other = BaseAgent(config, "question -> answer", kernel=two)

    assert bound.agent_id == "QuestionAnswer"
    assert other.agent_id == "QuestionAnswer-2"


async def test_an_error_inside_an_error_reads_as_one_sentence() -> None:
    with pytest.raises(PluginError) as caught:
        await settings_of(settings={"notes": {"size": "x"}})
    told = str(caught.value)
    assert told.count("[KAIZEN_") == 1
    assert ".." not in told
    assert "the settings [plugins.notes] cannot be used: 'size' (from code)" in told


async def test_tracing_is_turned_on_by_the_environment_that_is_given() -> None:
    assert alone(environ={"KAIZEN_TRACE_HOOKS": "1"}).hooks.trace
    assert not alone(environ={}).hooks.trace
