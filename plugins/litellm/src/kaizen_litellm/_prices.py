"""What models can do and cost, as far as it is known without asking.

The figures are those of the table that litellm brings as a file, which is read without
importing litellm and never fetched. `[[plugins.litellm.prices]]` goes before them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from pydantic_core import from_json

from kaizen_litellm._settings import PriceSettings

__all__ = ["Catalogue", "Counts", "Model", "Table", "read_table"]

Table: TypeAlias = Mapping[str, Mapping[str, Any]]

_LOG = logging.getLogger("kaizen.litellm")
_FILE = "model_prices_and_context_window_backup.json"
_DATED = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8})$")
_LONG = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_MILLION = Decimal(1_000_000)
_NOTHING = Decimal(0)
_KEPT = re.compile(
    r"litellm_provider|mode|max_(input_|output_)?tokens|"
    r"(in|out)put_cost_per_(token|second)(_above_\d+k_tokens)?|"
    r"output_cost_per_reasoning_token|"
    r"cache_(read|creation)_input_token_cost(_above_1hr)?(_above_\d+k_tokens)?|"
    r"supports_(function_calling|response_schema|vision|pdf_input|audio_input|"
    r"assistant_prefill|native_streaming|native_structured_output)"
)


@dataclass(slots=True)
class Counts:
    """Tokens, as they are paid for.

    Attributes:
        input: All that was sent, cached or not.
        cached: Of those, what was read from a cache.
        written: Of those, what was written into one.
        written_long: Of what was written, what is kept for longer and costs more.
        output: All that came, reasoning included.
        known: Whether the provider counted, rather than we.
        odd: Whether it was charged in a way that is not looked up here.
    """

    input: int = 0
    cached: int = 0
    written: int = 0
    written_long: int = 0
    output: int = 0
    reasoning: int = 0
    known: bool = False
    odd: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is known of a model on one day. Prices are in dollars for a million tokens.

    Attributes:
        cached: Price of input that was in the cache; `None` if it is that of any other.
        thought: Price of reasoning; `None` if it is that of any output.
        longer: The same from so many tokens of input on, if that has prices of its own.
    """

    input: Decimal = _NOTHING
    cached: Decimal | None = None
    written: Decimal | None = None
    written_long: Decimal | None = None
    output: Decimal = _NOTHING
    thought: Decimal | None = None
    longer: tuple[tuple[int, Model], ...] = ()

    def cost(self, counts: Counts) -> Decimal:
        """Return what a request cost, in US dollars."""
        for above, model in self.longer:
            if counts.input > above:
                return model.cost(counts)
        cached = min(counts.cached, counts.input)
        written = min(counts.written, counts.input - cached)
        kept_long = min(counts.written_long, written)
        thought = min(counts.reasoning, counts.output)
        write = _first(self.written, self.input)
        total = self.input * (counts.input - cached - written)
        total += _first(self.cached, self.input) * cached
        total += write * (written - kept_long)
        total += _first(self.written_long, write) * kept_long
        total += self.output * (counts.output - thought)
        total += _first(self.thought, self.output) * thought
        return total / _MILLION


def read_table() -> Table:
    """Read litellm's table of models; what is never asked for is left out of it.

    Blocks for some tens of milliseconds. Where there is no such table, it is empty.
    """
    spec = find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}
    try:
        data = from_json(Path(spec.origin).with_name(_FILE).read_bytes())
    except (OSError, ValueError) as error:
        _LOG.warning("litellm's table of models is not read: %s", type(error).__name__)
        return {}
    return {
        name: {key: value for key, value in entry.items() if _KEPT.fullmatch(key)}
        for name, entry in data.items()
        if name != "sample_spec"
    }


class Catalogue:
    """The models of one provider.

    Args:
        provider: Its name, as in `[[plugins.litellm.prices]]`.
        families: What the table calls it, the likeliest first.
        free: Whether its use costs nothing.
    """

    def __init__(
        self,
        provider: str,
        families: tuple[str, ...],
        table: Table,
        prices: Iterable[PriceSettings] = (),
        *,
        free: bool = False,
    ) -> None:
        self._families = families
        self._table = table
        self._prices = [each for each in prices if each.provider in ("", provider)]
        self._free = free
        self._day = date.min
        self._found: dict[str, _Known] = {}

    def find(self, model: str) -> Mapping[str, Any] | None:
        """Return what the table says of a model."""
        return self._known(model).entry

    def priced(self, model: str) -> Model | None:
        """Return what a model costs today, or `None` if that is not known."""
        return self._known(model).price

    def cost(self, counts: Counts, *models: str) -> Decimal | None:
        """Return what a request cost: nothing known is `None`, and never 0.

        Args:
            models: The model under all the names that it has, best first.
        """
        for model in models:
            price = self.priced(model) if model else None
            if price is not None:
                nothing = not counts.known and not counts.input and not counts.output
                return None if counts.odd or nothing else price.cost(counts)
        return None

    def names(self) -> Iterator[str]:
        """Give the models for conversations that the table has of this provider."""
        for name, entry in self._table.items():
            if entry.get("mode") == "chat" and self._is_ours(entry):
                head, slash, rest = name.partition("/")
                yield rest if slash and head in self._families else name

    def _is_ours(self, entry: Mapping[str, Any]) -> bool:
        return entry.get("litellm_provider") in self._families[:1]

    def _known(self, model: str) -> _Known:
        today = datetime.now(UTC).date()
        if today != self._day:
            self._day = today
            self._found = {}
        found = self._found.get(model)
        if found is None:
            if len(self._found) > 1_000:
                self._found.clear()
            found = self._found[model] = self._look(model, today)
        return found

    def _look(self, model: str, today: date) -> _Known:
        plain = _DATED.sub("", model)
        entry = self._entry(model) or self._entry(plain)
        own = [
            each
            for each in self._prices
            if each.model in (model, plain) and each.since <= today
        ]
        if own:
            return _Known(entry, _own(max(own, key=lambda each: each.since)))
        if self._free:
            paid = model.endswith(("-cloud", ":cloud"))  # which Ollama does not run here
            return _Known(entry, None if paid else Model())
        return _Known(entry, None if entry is None else _price(entry))

    def _entry(self, model: str) -> Mapping[str, Any] | None:
        """Return a model's line in the table, if it is one of this provider."""
        for family in self._families:
            for name in (f"{family}/{model}", model):
                entry = self._table.get(name)
                if entry is not None and entry.get("litellm_provider") == family:
                    return entry
        return None


@dataclass(frozen=True, slots=True)
class _Known:
    entry: Mapping[str, Any] | None = field(default=None)
    price: Model | None = None


def _own(price: PriceSettings) -> Model:
    return Model(
        input=price.input,
        cached=price.cached_input,
        written=price.cache_write,
        output=price.output,
    )


def _price(entry: Mapping[str, Any]) -> Model | None:
    """Return the prices that a line of the table has, if they are by tokens.

    A line that has only zeros says that nobody knew them, or that they are by other things.
    """
    costs = (entry.get(f"{way}_cost_per_token") for way in ("input", "output"))
    if entry.get("input_cost_per_token") is None or not any(costs):
        return None
    limits = (_LONG.fullmatch(name) for name in entry)
    above = sorted((int(found[1]) for found in limits if found), reverse=True)
    longer = tuple(
        (each * 1000, _prices(entry, f"_above_{each}k_tokens")) for each in above
    )
    return _prices(entry, "", longer)


def _prices(
    entry: Mapping[str, Any], suffix: str, longer: tuple[tuple[int, Model], ...] = ()
) -> Model:
    def price(name: str) -> Decimal | None:
        found = entry.get(name + suffix, entry.get(name))
        # The shortest form of a float is the figure that stands in the file.
        return None if found is None else Decimal(repr(found)) * _MILLION

    return Model(
        input=price("input_cost_per_token") or _NOTHING,
        cached=price("cache_read_input_token_cost"),
        written=price("cache_creation_input_token_cost"),
        written_long=price("cache_creation_input_token_cost_above_1hr"),
        output=price("output_cost_per_token") or _NOTHING,
        thought=price("output_cost_per_reasoning_token"),
        longer=longer,
    )


def _first(price: Decimal | None, other: Decimal) -> Decimal:
    return other if price is None else price
