"""The registry: which plugin offers what, under which name."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from inspect import isawaitable, iscoroutine
from typing import Any, TypeAlias, TypeVar

import anyio

from kaizen._records import record
from kaizen.errors import ConfigurationError, UnknownNameError

__all__ = ["Factory", "Offer", "Registry", "first_available"]

LOOK_S = 1.0
MEANT = 0.6  # how like a known name has to be to be what was meant
TYPO = 0.81  # the same, for what is more likely the name of a model
_LOG = logging.getLogger("kaizen")

Port = TypeVar("Port")
Factory: TypeAlias = Callable[[], Any] | AbstractAsyncContextManager[Any] | object
"""An implementation; or a function without arguments that returns one, a coroutine of one,
or an async context manager around one."""


@record
class Offer:
    """One implementation of a port.

    Attributes:
        plugin: Who offers it.
        description: One line for a person who chooses.
        rank: Which offer of a name is taken, if there are several: the highest.
        available: Says whether it can be used right now, for those who choose none.
        preference: Which one is then taken first, the lowest; `None` is never taken so.
        routes: Names that nobody else offers for which it takes `name/rest`.
    """

    port: type[Any]
    name: str
    factory: Any
    plugin: str
    description: str = ""
    rank: int = 0
    available: Callable[[], bool | Awaitable[bool]] | None = None
    preference: int | None = None
    routes: frozenset[str] = frozenset()


class Registry:
    """What the plugins of one kernel offer, by port and name."""

    def __init__(self) -> None:
        self._offers: dict[type[Any], dict[str, Offer]] = {}
        self._outranked: list[Offer] = []

    def add(
        self,
        port: type[Any],
        name: str,
        factory: Factory,
        *,
        description: str = "",
        plugin: str = "",
        rank: int = 0,
        available: Callable[[], bool | Awaitable[bool]] | None = None,
        preference: int | None = None,
        routes: Iterable[str] = (),
    ) -> None:
        """Offer an implementation of a port.

        Args:
            port: The protocol, or any class that serves as a key.
            name: What users choose it by.
            factory: The implementation, or how to open it; see `Factory`.
            description: One line for a person who chooses.
            plugin: Who offers it; the kernel fills it in while plugins contribute.
            rank: Which offer of a name is taken, if there are several: the highest. An
                offer that is to stand back where there is another has a rank below 0.
            available: Says whether it can be used right now, such as whether there is a
                key, for those who choose none. May be a coroutine function, which has a
                second.
            preference: Which one is then taken first: the lowest.
            routes: Names for which it takes `name/rest` where nobody else offers them.

        Raises:
            ConfigurationError: The name is taken by an offer of the same rank.
            TypeError: `routes` is one text.
        """
        if isinstance(routes, str):
            raise TypeError(f"routes={routes!r} is one text; write [{routes!r}]")
        taken = self._offers.setdefault(port, {})
        offer = Offer(
            port=port,
            name=name,
            factory=factory,
            plugin=plugin,
            description=description,
            rank=rank,
            available=available,
            preference=preference,
            routes=frozenset(routes),
        )
        known = taken.get(name)
        if known is not None and known.rank == rank:
            raise ConfigurationError(
                f"{port.__name__} {name!r}",
                f"is offered by plugin {known.plugin!r} already",
                "Disable one of the plugins, or give yours another name.",
            )
        if known is not None:
            first = max(known, offer, key=lambda each: each.rank)
            self._outranked.append(known if first is offer else offer)
            offer = first
        taken[name] = offer

    def remove_plugin(self, plugin: str) -> list[Offer]:
        """Take back what a plugin offers, and return what was in use of it."""
        self._outranked = [each for each in self._outranked if each.plugin != plugin]
        gone = [
            offer
            for offers in self._offers.values()
            for offer in offers.values()
            if offer.plugin == plugin
        ]
        for offer in gone:
            offers = self._offers[offer.port]
            del offers[offer.name]
            next_best = [
                each
                for each in self._outranked
                if (each.port, each.name) == (offer.port, offer.name)
            ]
            if next_best:
                best = max(next_best, key=lambda each: each.rank)
                self._outranked.remove(best)
                offers[offer.name] = best
        return gone

    def route(self, port: type[Any], name: str, rest: str) -> tuple[str, str]:
        """Return which offer a choice leads to, and what of `rest` is left for it.

        `name/rest` may stand in either of the two. A name that nobody offers leads to
        whoever takes it, with the whole `name/rest`. If nobody does, the choice comes back
        as it was: names of models have slashes, too. But if it is but a letter away from a
        name that is offered, it is taken for one, so that whoever looks it up hears of the
        mistake.
        """
        offers = self._offers.get(port, {})
        if "/" in name and name not in offers and not rest:
            name, _, rest = name.partition("/")
        head, slash, tail = rest.partition("/")
        if not name and slash and head in offers:
            return head, tail
        if name in offers or not (name or slash):
            return name, rest
        for offer in offers.values():
            if (name or head) in offer.routes:
                return offer.name, f"{name}/{rest}" if name and rest else name or rest
        if not name and self._is_typo(head, offers):
            return head, tail
        return name, rest

    def names(self, port: type[Any]) -> tuple[str, ...]:
        """Return the names under which a port is offered, sorted."""
        return tuple(sorted(self._offers.get(port, ())))

    def offers(self, port: type[Any] | None = None) -> tuple[Offer, ...]:
        """Return what is offered for a port, or for every port, in order of arrival."""
        groups = self._offers.values() if port is None else [self._offers.get(port, {})]
        return tuple(offer for group in groups for offer in group.values())

    def offered(self, port: type[Any], name: str) -> Offer | None:
        """Return the offer of a name, or `None`."""
        return self._offers.get(port, {}).get(name)

    def find(self, port: type[Any], name: str) -> Offer:
        """Return the offer of a name.

        Raises:
            UnknownNameError: Nobody offers it; it lists the names that are known.
        """
        try:
            return self._offers[port][name]
        except KeyError:
            raise self.unknown(port, name) from None

    def unknown(self, port: type[Any], name: str, remark: str = "") -> UnknownNameError:
        """Return the error of a name that nobody offers; it lists those that are known.

        Of names that somebody takes beside those that are offered, which may be hundreds,
        it lists the one that may be meant, and counts the others.

        Args:
            remark: A sentence about where the name stands.
        """
        near = self._nearest(port, name)
        said = []
        if near and not get_close_matches(name, near, n=1):  # they differ in case
            said.append(f"Did you mean {near[0]!r}?")
        said += [
            f"{each.name!r} takes {len(each.routes)} other names."
            for each in self.offers(port)
            if each.routes
        ]
        known = {*self.names(port), *near}
        remedy = " ".join(filter(None, [*said, remark, self.remedy(port, name)]))
        return UnknownNameError(_words(port), name, known, remedy)

    def _is_typo(self, name: str, offers: Iterable[str]) -> bool:
        """Whether a name is most likely that of an offer, with a slip in it."""
        near = [each for each in offers if abs(len(each) - len(name)) <= 1]
        return bool(get_close_matches(name.lower(), near, n=1, cutoff=TYPO))

    def _nearest(self, port: type[Any], name: str) -> list[str]:
        """Return the name that may be meant, if there is one that is like it."""
        offers = self._offers.get(port, {})
        known = {*offers, *(name for each in offers.values() for name in each.routes)}
        return get_close_matches(name.lower(), known, n=1, cutoff=MEANT)

    def remedy(self, port: type[Any], name: str) -> str:
        """Say which distribution brings a name that nobody offers here."""
        distribution = BROUGHT_BY.get((port.__name__, name))
        return f"Install it with `pip install {distribution}`." if distribution else ""


async def first_available(offers: Iterable[Offer]) -> str:
    """Return the name of an offer that can be used right now, or `""`.

    What says so at once goes before what has to look, such as for a server.
    """
    ordered = sorted(
        (each for each in offers if each.preference is not None and each.available),
        key=lambda each: (each.preference, each.name),
    )
    looking: list[tuple[Offer, Awaitable[bool]]] = []
    found: dict[str, bool] = {}
    try:
        for offer in ordered:
            said = _asked(offer)
            if isawaitable(said):
                looking.append((offer, said))
            elif said:
                return offer.name

        async def look(offer: Offer, said: Awaitable[bool]) -> None:
            with anyio.move_on_after(LOOK_S):
                try:
                    found[offer.name] = bool(await said)
                except Exception as error:  # noqa: BLE001 - the others may be there
                    _report(offer, error)

        async with anyio.create_task_group() as tasks:
            for offer, said in looking:
                tasks.start_soon(look, offer, said)
    finally:
        for offer, said in looking:
            if offer.name not in found and iscoroutine(said):
                said.close()
    return next((each.name for each in ordered if found.get(each.name)), "")


def _asked(offer: Offer) -> bool | Awaitable[bool]:
    try:
        return offer.available is not None and offer.available()
    except Exception as error:  # noqa: BLE001 - the others may be there
        _report(offer, error)
        return False


def _report(offer: Offer, error: Exception) -> None:
    _LOG.warning(
        "plugin %r cannot say whether %s %r is there: %s: %s",
        offer.plugin,
        _words(offer.port),
        offer.name,
        type(error).__name__,
        error,
    )


BROUGHT_BY = {
    **{
        ("Provider", name): "kaizen-direct"
        for name in (
            "anthropic",
            "azure",
            "docker",
            "lm_studio",
            "ollama",
            "openai",
            "vllm",
        )
    },
    **{
        ("Provider", name): "kaizen-litellm"
        for name in ("cohere", "gemini", "google", "huggingface", "litellm")
    },
    ("Provider", "mock"): "kaizen-offline",
    ("Provider", "offline"): "kaizen-offline",
    ("CheckpointStore", "filesystem"): "kaizen-state",
    ("CheckpointStore", "sqlite"): "kaizen-sqlite",
    ("CheckpointStore", "postgres"): "kaizen-postgres",
    ("CheckpointStore", "redis"): "kaizen-redis",
    ("CheckpointStore", "s3"): "kaizen-s3",
    ("MemoryStore", "sqlite"): "kaizen-sqlite",
    ("CacheStore", "memory"): "kaizen-cache",
    **{("Channel", name): "kaizen-control" for name in ("cli", "http", "stdio")},
    **{
        ("Tool", name): "kaizen-tools"
        for name in (
            "bash_command",
            "delete_file",
            "edit_file",
            "extract_links",
            "fetch_url",
            "file_exists",
            "grep",
            "http_delete",
            "http_get",
            "http_post",
            "http_put",
            "list_directory",
            "read_file",
            "search_files",
            "write_file",
        )
    },
}
"""Names that users know from the documents, and the distributions that bring them."""


def _words(port: type[Any]) -> str:
    """Return `CheckpointStore` as `checkpoint store`."""
    spaced = "".join(f" {each}" if each.isupper() else each for each in port.__name__)
    return spaced.strip().lower()
