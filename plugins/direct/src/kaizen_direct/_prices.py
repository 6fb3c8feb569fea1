"""What models can do and cost, as far as it is known without asking.

The figures are those that the makers published, as of the days in the table: US dollars
for a million tokens. They are never fetched; `[[plugins.direct.prices]]` goes before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import chain
from typing import TypeAlias

from kaizen_direct._settings import PriceSettings
from kaizen_direct._wire import Counts

__all__ = ["Catalogue", "Model"]

# model, first day, context window, longest reply, abilities (t tools, s structured output,
# i images, d documents, a audio, c continues a prefix); then the prices of input, cached
# input, what is written to the cache, output; then from how much input on these are
# multiplied, and by what: input, output.
_TABLE = {
    "openai": """
gpt-3.5-turbo 2024-01-25 16385 4096 t 0.5 - - 1.5 -
gpt-4 2023-06-13 8192 4096 t 30 - - 60 -
gpt-4-turbo 2024-04-09 128000 4096 tid 10 - - 30 -
gpt-4o 2024-08-06 128000 16384 tsid 2.5 1.25 - 10 -
gpt-4o-2024-05-13 2024-05-13 128000 4096 tid 5 - - 15 -
gpt-4o-mini 2024-07-18 128000 16384 tsid 0.15 0.075 - 0.6 -
gpt-4.1 2025-04-14 1047576 32768 tsid 2 0.5 - 8 -
gpt-4.1-mini 2025-04-14 1047576 32768 tsid 0.4 0.1 - 1.6 -
gpt-4.1-nano 2025-04-14 1047576 32768 tsid 0.1 0.025 - 0.4 -
o1 2024-12-17 200000 100000 tsid 15 7.5 - 60 -
o3 2025-04-16 200000 100000 tsid 10 2.5 - 40 -
o3 2025-06-10 200000 100000 tsid 2 0.5 - 8 -
o3-mini 2025-01-31 200000 100000 ts 1.1 0.55 - 4.4 -
o4-mini 2025-04-16 200000 100000 tsid 1.1 0.275 - 4.4 -
gpt-5 2025-08-07 400000 128000 tsid 1.25 0.125 - 10 -
gpt-5-mini 2025-08-07 400000 128000 tsid 0.25 0.025 - 2 -
gpt-5-nano 2025-08-07 400000 128000 tsid 0.05 0.005 - 0.4 -
gpt-5-chat-latest 2025-08-07 128000 16384 tsid 1.25 0.125 - 10 -
gpt-5.1 2025-11-13 400000 128000 tsid 1.25 0.125 - 10 -
gpt-5.1-chat-latest 2025-11-13 128000 16384 tsid 1.25 0.125 - 10 -
gpt-5.2 2025-12-11 400000 128000 tsid 1.75 0.175 - 14 -
gpt-5.2-chat-latest 2025-12-11 128000 16384 tsid 1.75 0.175 - 14 -
gpt-5.3-chat-latest 2026-11-01 128000 16384 tsid 1.75 0.175 - 14 -
gpt-5.4 2026-03-05 1050000 128000 tsid 2.5 0.25 - 15 272000:2:1.5
gpt-5.4-mini 2026-03-17 400000 128000 tsid 0.75 0.075 - 4.5 -
gpt-5.4-nano 2026-03-17 400000 128000 tsid 0.2 0.02 - 1.25 -
gpt-5.5 2026-04-23 1050000 128000 tsid 5 0.5 - 30 272000:2:1.5
gpt-5.6 2026-11-01 1050000 128000 tsid 4 0.4 5 20 272000:2:1.5
gpt-5.6-sol 2026-11-01 1050000 128000 tsid 4 0.4 5 20 272000:2:1.5
gpt-5.6-terra 2026-11-01 1050000 128000 tsid 2 0.2 2.5 12 272000:2:1.5
gpt-5.6-luna 2026-11-01 1050000 128000 tsid 0.2 0.02 0.25 1.2 272000:2:1.5
gpt-6-astra 2026-11-01 1050000 128000 tsid 10 1 12.5 50 272000:2:1.5
gpt-6-sol 2026-11-01 1050000 128000 tsid 2 0.2 2.5 10 272000:2:1.5
gpt-6-luna 2026-11-01 1050000 128000 tsid 0.1 0.01 0.125 0.5 272000:2:1.5
gpt-6.1-sol 2026-11-01 1050000 128000 tsid 2 0.1 2.5 10 272000:2:1.5
gpt-audio 2025-08-28 128000 16384 ta 2.5 - - 10 -
gpt-audio-mini 2025-10-06 128000 16384 ta 0.6 - - 2.4 -
text-embedding-3-large 2024-01-25 8191 - - 0.13 - - 0 -
text-embedding-3-small 2024-01-25 8191 - - 0.02 - - 0 -
text-embedding-ada-002 2023-06-13 8191 - - 0.1 - - 0 -
""",
    "anthropic": """
claude-fable-5 2026-11-01 1000000 128000 tsid 10 1 12.5 50 -
claude-fable-5-1 2026-11-01 1000000 128000 tsid 10 0.25 12.5 50 -
claude-haiku-4-5 2025-10-01 200000 64000 tsidc 1 0.1 1.25 5 -
claude-haiku-5-5 2026-11-01 1000000 128000 tsid 0.1 0.01 0.125 0.5 100000:5:5
claude-mythos-5 2026-11-01 1000000 128000 tsid 10 1 12.5 50 -
claude-mythos-5-1 2026-11-01 1000000 128000 tsid 10 0.25 12.5 50 -
claude-mythos-preview 2026-11-01 1000000 128000 tsid 10 1 12.5 50 -
claude-opus-4-5 2025-11-01 200000 64000 tsidc 5 0.5 6.25 25 -
claude-opus-4-6 2026-02-05 1000000 128000 tsid 5 0.5 6.25 25 -
claude-opus-4-7 2026-04-16 1000000 128000 tsid 5 0.5 6.25 25 -
claude-opus-4-8 2026-11-01 1000000 128000 tsid 5 0.5 6.25 25 -
claude-opus-5 2026-11-01 1000000 128000 tsid 5 0.5 6.25 25 -
claude-opus-5-5 2026-11-01 1000000 128000 tsid 4 0.2 5 20 -
claude-sonnet-4-5 2025-09-29 200000 64000 tsidc 3 0.3 3.75 15 -
claude-sonnet-4-6 2026-11-01 1000000 128000 tsid 3 0.3 3.75 15 -
claude-sonnet-5 2026-11-01 1000000 128000 tsid 2 0.2 2.5 10 -
claude-sonnet-5-5 2026-11-01 1000000 128000 tsid 2 0.1 2.5 10 -
""",
}
_DATED = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8})$")
_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is known of a model on one day.

    Attributes:
        cached: Price of a token of input that was in the cache, in dollars for a million
            as all prices; `None` if it is that of any other.
        long_after: From how many tokens of input on the long factors hold, or `None`.
    """

    name: str
    since: date = date.min
    context_window: int | None = None
    max_output_tokens: int | None = None
    abilities: str = ""
    input: Decimal = Decimal(0)
    cached: Decimal | None = None
    written: Decimal | None = None
    output: Decimal = Decimal(0)
    long_after: int | None = None
    long_input: Decimal = Decimal(1)
    long_output: Decimal = Decimal(1)

    def cost(self, counts: Counts) -> Decimal:
        """Return what a request cost, in US dollars."""
        cached = min(counts.cached, counts.input)
        written = min(counts.written, counts.input - cached)
        kept_long = min(counts.written_long, written)
        read = self.input if self.cached is None else self.cached
        write = self.input if self.written is None else self.written
        sent = self.input * (counts.input - cached - written)
        sent += read * cached + write * (written - kept_long)
        sent += 2 * self.input * kept_long  # Anthropic's price of an hour
        came = self.output * counts.output
        if self.long_after is not None and counts.input > self.long_after:
            sent, came = sent * self.long_input, came * self.long_output
        return (sent + came) / _MILLION


_Found: TypeAlias = tuple[Model | None, Model | None, bool]
"""What is known of a model, what it costs, and whether the settings say that."""


class Catalogue:
    """The models of one endpoint.

    Args:
        name: Whose table is looked into, or `""` for none.
        provider: The endpoint.
        prices: What the settings say.
        free: Whether its use costs nothing.
    """

    def __init__(
        self,
        name: str,
        provider: str,
        prices: Iterable[PriceSettings] = (),
        *,
        free: bool = False,
    ) -> None:
        self._name = name
        self._prices = [each for each in prices if each.provider in ("", provider)]
        self._free = free
        self._rows: dict[str, list[Model]] | None = None
        self._day = date.min
        self._found: dict[str, _Found] = {}

    def find(self, model: str) -> Model | None:
        """Return what is known of a model."""
        return self._both(model)[0]

    def priced(self, model: str) -> Model | None:
        """Return what a model costs now, or `None` if that is not known."""
        return self._both(model)[1]

    def cost(self, counts: Counts, *models: str) -> Decimal | None:
        """Return what a request cost: nothing known is `None`, and never 0.

        Args:
            models: The model under all the names that it has, best first; a price of the
                settings for any of them goes before all that are bundled.
        """
        nothing = not counts.known and not counts.input and not counts.output
        found = [self._both(model) for model in models if model]
        own = (price for _, price, is_own in found if is_own)
        known = (price for _, price, _ in found if price is not None)
        price = next(chain(own, known), None)
        if price is None or counts.odd or nothing:
            return None
        return price.cost(counts)

    def _both(self, model: str) -> _Found:
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

    def _look(self, model: str, today: date) -> _Found:
        if self._rows is None:
            self._rows = {}
            for row in _rows(self._name):
                self._rows.setdefault(row.name, []).append(row)
        plain = _DATED.sub("", model)
        rows = self._rows.get(model) or self._rows.get(plain) or []
        known = _current(rows, today)
        own = [_own(each) for each in self._prices if each.model in (model, plain)]
        if price := _current([each for each in own if each.since <= today], today):
            return known, price, True
        if self._free:
            paid = model.endswith(("-cloud", ":cloud"))  # which Ollama does not run here
            return known, None if paid else Model(name=model), False
        return known, known, False


def _current(rows: Sequence[Model], today: date) -> Model | None:
    """Return the row of today; before the first one, that one."""
    begun = [row for row in rows if row.since <= today]
    if begun:
        return max(begun, key=lambda row: row.since)
    return min(rows, key=lambda row: row.since, default=None)


def _own(price: PriceSettings) -> Model:
    return Model(
        name=price.model,
        since=price.since,
        input=price.input,
        cached=price.cached_input,
        written=price.cache_write,
        output=price.output,
    )


def _rows(name: str) -> Iterator[Model]:
    for line in _TABLE.get(name, "").strip().splitlines():
        model, since, window, longest, abilities, *prices, long = line.split()
        sent, cached, written, came = (None if p == "-" else Decimal(p) for p in prices)
        after, long_input, long_output = (
            (None, "1", "1") if long == "-" else long.split(":")
        )
        yield Model(
            name=model,
            since=date.fromisoformat(since),
            context_window=int(window),
            max_output_tokens=None if longest == "-" else int(longest),
            abilities=abilities.strip("-"),
            input=sent or Decimal(0),
            cached=cached,
            written=written,
            output=came or Decimal(0),
            long_after=None if after is None else int(after),
            long_input=Decimal(long_input),
            long_output=Decimal(long_output),
        )
