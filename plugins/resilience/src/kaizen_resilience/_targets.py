"""Who is asked, in which order, and what each is sent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from kaizen.messages import OutputSpec
from kaizen.ports import Provider

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kaizen.messages import Message, ModelProfile, ModelRequest
    from kaizen.registry import Registry
    from kaizen.run import Run

__all__ = ["Target", "addressed", "provider_of", "suited", "targets"]


class Target(NamedTuple):
    """A model of a provider; `""` is the model that the provider takes by itself."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}" if self.model else self.provider


def targets(
    run: Run, request: ModelRequest, fallbacks: Sequence[str]
) -> tuple[Target, ...]:
    """Return who is asked first, and who after that.

    Raises:
        UnknownNameError: A fallback names a provider that nobody offers. It is said at the
            first call, and not on the day on which the fallback is needed.
    """
    first = Target(request.provider or run.plan.provider_name, request.model)
    if not fallbacks:
        return (first,)
    registry = run.kernel.registry
    found = [first, *(_target(registry, each, first.provider) for each in fallbacks)]
    return tuple(dict.fromkeys(found))


def _target(registry: Registry, choice: str, provider: str) -> Target:
    if "/" not in choice:
        is_provider = registry.offered(Provider, choice) is not None
        return Target(choice, "") if is_provider else Target(provider, choice)
    name, model = registry.route(Provider, "", choice)
    if registry.offered(Provider, name) is None:
        wanted = choice.partition("/")[0]
        remark = f"It stands in a fallback, {choice!r}."
        raise registry.unknown(Provider, wanted, remark)
    return Target(name, model)


async def provider_of(run: Run, target: Target) -> Provider:
    """Return the provider of a target, opened."""
    if target.provider == run.plan.provider_name:
        return run.plan.provider
    provider: Provider = await run.kernel.get(Provider, target.provider)  # type: ignore[type-abstract]
    return provider


def addressed(request: ModelRequest, target: Target, first: Target) -> ModelRequest:
    """Return a request as it goes to a target.

    Fields that were meant for one provider alone do not go to another.
    """
    if target == first:
        return request
    settings = request.settings
    if target.provider != first.provider and settings.extra:
        settings = replace(settings, extra={})
    return replace(request, provider=target.provider, model=target.model, settings=settings)


def suited(run: Run, request: ModelRequest, profile: ModelProfile) -> ModelRequest:
    """Return a request that a model can fulfil which is held to no schema.

    The schema is then written into the prompt, as it would be if the agent had that model.
    """
    output = request.output
    if output is None or not output.strict or profile.structured_output:
        return request
    signature = run.plan.signature
    return replace(
        request,
        messages=tuple(_prompted(request.messages, signature.prompted_system_prompt)),
        output=OutputSpec(
            name=output.name, schema=signature.legacy_output_schema, strict=False
        ),
    )


def _prompted(messages: Sequence[Message], prompt: str) -> Iterator[Message]:
    for each in messages:
        is_prompt = each.role == "system" and each.origin == "signature"
        yield replace(each, content=prompt) if is_prompt else each
