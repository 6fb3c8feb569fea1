"""Registering hooks: names, order, handlers, coming and going."""

from __future__ import annotations

from typing import Any

import pluggy
import pytest
from kaizen import (
    BaseHook,
    HookContext,
    HookEvent,
    HookManager,
    HookPriority,
    HookResult,
    Priority,
    hookimpl,
)
from kaizen.errors import HookExecutionError, HookRegistrationError, HookTimeoutError

pytestmark = pytest.mark.anyio


class Silent:
    @hookimpl
    async def pre_cycle(self, event: Any) -> None: ...


def names(manager: HookManager, hook: str) -> list[str]:
    return [each.plugin for each in manager.implementations(hook)]


def test_the_first_registered_is_asked_first() -> None:
    manager = HookManager()
    for name in ("a", "b", "c"):
        manager.add(Silent(), name=name)
    assert names(manager, "pre_cycle") == ["a", "b", "c"]


def test_the_order_is_priority_then_rank_then_name() -> None:
    class Early:
        @hookimpl(priority=Priority.CRITICAL)
        async def pre_cycle(self, event: Any) -> None: ...

    class Late:
        @hookimpl(priority=Priority.LOWEST)
        async def pre_cycle(self, event: Any) -> None: ...

    manager = HookManager()
    manager.add(Late(), name="late", rank=0)
    manager.add(Silent(), name="z", rank=5)
    manager.add(Silent(), name="a", rank=5)
    manager.add(Silent(), name="ranked", rank=1)
    manager.add(Early(), name="early", rank=9)
    assert names(manager, "pre_cycle") == ["early", "ranked", "a", "z", "late"]


def test_a_misspelt_hook_is_refused_with_a_hint() -> None:
    class Misspelt:
        @hookimpl
        async def pre_cylce(self, event: Any) -> None: ...

    manager = HookManager()
    with pytest.raises(
        HookRegistrationError, match=r"'pre_cylce'.*Did you mean 'pre_cycle'"
    ):
        manager.add(Misspelt(), name="misspelt")
    assert names(manager, "pre_cycle") == []
    assert manager.names() == ()


def test_a_plugin_with_one_bad_hook_is_not_registered_at_all() -> None:
    class Half:
        @hookimpl
        async def pre_cycle(self, event: Any) -> None: ...

        @hookimpl
        async def post_cycle(self, event: Any, unknown: Any) -> None: ...

    manager = HookManager()
    with pytest.raises(HookRegistrationError, match="unknown"):
        manager.add(Half(), name="half")
    assert names(manager, "pre_cycle") == []


def test_a_keyword_only_parameter_is_refused() -> None:
    class KeywordOnly:
        @hookimpl
        async def pre_cycle(self, *, event: Any) -> None: ...

    with pytest.raises(HookRegistrationError, match="keyword-only parameter 'event'"):
        HookManager().add(KeywordOnly(), name="keyword")


def test_a_class_is_refused_where_an_object_is_meant() -> None:
    with pytest.raises(HookRegistrationError, match=r"object of it, such as Silent\(\)"):
        HookManager().add(Silent)


def test_an_object_without_hooks_is_refused() -> None:
    manager = HookManager()
    with pytest.raises(HookRegistrationError, match=r"has no hooks.*@hookimpl"):
        manager.add(object(), name="empty")
    assert manager.names() == ()
    assert manager.add(object(), name="empty", may_have_none=True) == "empty"


def test_specifications_come_whole_and_go_again() -> None:
    hookspec = pluggy.HookspecMarker("kaizen")

    class Specs:
        @hookspec
        def greet(self, name: str) -> str:
            raise NotImplementedError

    class Clashing:
        @hookspec
        def a_new_one(self) -> None: ...

        @hookspec
        def pre_cycle(self, event: Any) -> None: ...

    class Guest:
        @hookimpl
        def greet(self, name: str) -> str:
            return f"hello {name}"

        @hookimpl
        async def pre_cycle(self, event: Any) -> None: ...

    class Eager:
        @hookimpl
        def a_new_one(self) -> None: ...

    manager = HookManager()
    manager.add_specs(Specs)
    manager.add(Guest(), name="guest")
    with pytest.raises(HookRegistrationError, match="pre_cycle"):
        manager.add_specs(Clashing)
    with pytest.raises(HookRegistrationError, match="'a_new_one'"):
        manager.add(Eager())
    assert list(manager.call("greet", name="you")) == [("guest", "hello you")]

    manager.remove_specs(Specs)
    assert names(manager, "pre_cycle") == ["guest"]
    with pytest.raises(HookRegistrationError, match="unknown hook 'greet'"):
        manager.add(Guest(), name="second")


def test_an_optional_hook_may_be_unknown() -> None:
    class Optional:
        @hookimpl(optionalhook=True)
        def some_other_plugins_hook(self) -> None: ...

    assert HookManager().add(Optional(), name="optional") == "optional"


def test_a_name_is_taken_once() -> None:
    manager = HookManager()
    manager.add(Silent(), name="same")
    with pytest.raises(HookRegistrationError, match="registered already"):
        manager.add(Silent(), name="same")
    assert names(manager, "pre_cycle") == ["same"]


def test_a_plugin_comes_and_goes_and_the_version_rises() -> None:
    manager = HookManager()
    before = manager.version
    manager.add(Silent(), name="guest")
    during = manager.version
    manager.remove("guest")
    assert before < during < manager.version
    assert names(manager, "pre_cycle") == []


def test_a_blocked_plugin_stays_out_until_it_is_unblocked() -> None:
    manager = HookManager()
    manager.add(Silent(), name="guest")
    manager.block("guest")
    assert names(manager, "pre_cycle") == []
    with pytest.raises(HookRegistrationError):
        manager.add(Silent(), name="guest")
    manager.unblock("guest")
    manager.add(Silent(), name="guest")
    assert names(manager, "pre_cycle") == ["guest"]


def test_the_priorities_have_their_documented_values() -> None:
    values = [HookPriority.CRITICAL, HookPriority.HIGH, HookPriority.NORMAL]
    assert [*values, HookPriority.LOW, HookPriority.LOWEST] == [1, 2, 3, 4, 5]


def test_every_observer_hook_is_an_event() -> None:
    from kaizen import hookspecs

    observed = {name for name in hookspecs.__all__ if name.startswith(("pre_", "post_"))}
    assert observed == {each.value for each in HookEvent}


async def test_handlers_are_told_in_order_of_priority() -> None:
    manager = HookManager()
    told: list[str] = []

    async def late(context: HookContext) -> None:
        told.append("late")

    def early(context: HookContext) -> HookResult:
        told.append("early")
        return HookResult(data=context.agent_id)

    manager.register(
        event_type=HookEvent.PRE_CYCLE, handler=late, priority=HookPriority.LOW
    )
    manager.register(
        event_type=HookEvent.PRE_CYCLE, handler=early, priority=HookPriority.HIGH
    )
    results = await manager.trigger(HookEvent.PRE_CYCLE, agent_id="a", metadata={"x": 1})

    assert told == ["early", "late"]
    assert [(each.success, each.data) for each in results] == [(True, "a"), (True, None)]


async def test_a_hook_is_told_of_each_of_its_events() -> None:
    class Audit(BaseHook):
        def __init__(self) -> None:
            super().__init__(name="audit")
            self.events = [HookEvent.PRE_CYCLE, HookEvent.POST_TOOL_CALL]
            self.seen: list[str] = []

        async def handle(self, context: HookContext) -> HookResult:
            self.seen.append(context.event.value)
            assert context.event is context.event_type
            return HookResult(success=True)

    manager = HookManager()
    audit = Audit()
    manager.register_hook(audit, priority=HookPriority.CRITICAL)
    await manager.trigger(HookEvent.PRE_CYCLE)
    await manager.trigger(HookEvent.POST_TOOL_CALL)
    await manager.trigger(HookEvent.POST_CYCLE)
    assert audit.seen == ["pre_cycle", "post_tool_call"]


async def test_a_handler_that_raises_is_reported_and_the_others_are_told() -> None:
    manager = HookManager()
    told: list[str] = []

    async def broken(context: HookContext) -> None:
        raise ValueError("no disk")

    manager.register(HookEvent.PRE_CYCLE, broken)
    manager.register(HookEvent.PRE_CYCLE, lambda context: told.append("second"))
    results = await manager.trigger(HookEvent.PRE_CYCLE)

    assert [each.success for each in results] == [False, True]
    assert "no disk" in results[0].error
    assert told == ["second"]
    assert isinstance(manager.problems[0], HookExecutionError)


async def test_a_handler_that_takes_too_long_is_reported() -> None:
    import anyio

    manager = HookManager(timeout_s=0.01)

    async def endless(context: HookContext) -> None:
        await anyio.sleep_forever()

    manager.register(HookEvent.PRE_CYCLE, endless)
    results = await manager.trigger(HookEvent.PRE_CYCLE)

    assert not results[0].success
    assert isinstance(manager.problems[0], HookTimeoutError)
    assert manager.problems[0].code == "HOOK_002"


async def test_a_handler_can_be_removed() -> None:
    manager = HookManager()
    told: list[str] = []
    name = manager.register(HookEvent.PRE_CYCLE, lambda context: told.append("told"))
    manager.remove(name)
    await manager.trigger(HookEvent.PRE_CYCLE)
    assert told == []


@pytest.mark.parametrize("handler", [lambda: None, lambda a, b: None], ids=["none", "two"])
def test_a_handler_of_the_wrong_shape_is_refused(handler: Any) -> None:
    with pytest.raises(HookRegistrationError, match="one argument"):
        HookManager().register(HookEvent.PRE_CYCLE, handler)


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(HookRegistrationError, match="HookEvent"):
        HookManager().register("pre_cycle", lambda context: None)  # type: ignore[arg-type]


def test_a_hook_without_events_is_refused() -> None:
    with pytest.raises(HookRegistrationError, match="names no events"):
        HookManager().register_hook(BaseHook(name="empty"))


def test_problems_are_kept_within_bounds() -> None:
    manager = HookManager()
    for number in range(250):
        manager.report(HookExecutionError("observer", f"failed {number}"))
    assert len(manager.problems) == 100
    assert "249" in str(manager.problems[-1])
