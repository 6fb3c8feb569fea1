"""A language model that is tiny and untrained, and a language model all the same.

    with WireServer(otherwise=TinyModel()) as wire: ...

A transformer with random weights writes byte by byte, held to the JSON schema of a request
by a grammar. What it says means nothing; but it is not scripted, it comes token by token,
and what holds a real model to a schema holds this one. Needs numpy and llguidance.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from tests.wire.script import Answer, Request, Stop, Usage

__all__ = ["TinyModel"]

Floats: TypeAlias = NDArray[np.float32]

END = 256
VOCABULARY = 257
WIDTH, HEADS, LAYERS, WINDOW = 64, 4, 2, 512
# The ends of things in JSON.
CLOSING = [*b'"}],', END]
# What a model that nobody trained writes where nothing is asked for: printable ASCII.
ANYTHING = r"[ -~]{20,400}"


class Bytes:
    """A vocabulary of all bytes, and one token for the end."""

    eos_token_id = END
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (END,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


class TinyModel:
    """Answers requests to a `WireServer`; the same seed and request give the same text."""

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed
        self._weights = Weights(seed)
        self._tokenizer = LLTokenizer(TokenizerWrapper(Bytes()))

    def __call__(self, request: Request) -> Answer:
        """Answer a request: the words are made while they are sent."""
        body = request.json or {}
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 2000
        stops = body.get("stop") or body.get("stop_sequences") or []
        prompt = json.dumps([turn.text for turn in request.turns]).encode()[-WINDOW // 2 :]
        writing = Writing(
            self._weights,
            self._matcher(request.schema),
            prompt,
            random=np.random.default_rng([self._seed, body.get("seed") or request.number]),
            temperature=float(body.get("temperature", 1.0)),
            limit=int(limit),
        )
        wanted = [stops] if isinstance(stops, str) else stops
        return Answer(chunks=writing.until(wanted), ending=writing.ending)

    def _matcher(self, schema: Mapping[str, Any] | None) -> LLMatcher:
        grammar = LLMatcher.grammar_from_regex(ANYTHING)
        if schema is not None:
            # Allowed whitespace is what a random model would write for ever.
            closed: Any = {"whitespace_flexible": False}
            grammar = LLMatcher.grammar_from_json_schema(dict(schema), overrides=closed)
        matcher = LLMatcher(self._tokenizer, grammar)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher


class Writing:
    """One text that the model writes."""

    def __init__(
        self,
        weights: Weights,
        matcher: LLMatcher,
        prompt: bytes,
        *,
        random: np.random.Generator,
        temperature: float,
        limit: int,
    ) -> None:
        self._memory = Memory(weights)
        self._matcher = matcher
        self._prompt = prompt or b"?"
        self._random = random
        self._temperature = temperature
        self._limit = limit
        self._stop: Stop = "stop"
        self._written = 0

    def ending(self) -> tuple[Stop, Usage]:
        """Say why it ended, and how many tokens it read and wrote."""
        used = Usage(input_tokens=len(self._prompt), output_tokens=self._written)
        return self._stop, used

    def until(self, stops: Sequence[str]) -> Iterator[str]:
        """Write until one of some texts would come, and give what surely comes before."""
        longest = max(map(len, stops), default=1)
        held = ""
        for piece in self._pieces():
            held += piece
            found = min((at for stop in stops if (at := held.find(stop)) >= 0), default=-1)
            if found >= 0:
                self._stop = "stop"
                if held[:found]:
                    yield held[:found]
                return
            sure = len(held) - longest + 1
            if sure > 0:
                yield held[:sure]
                held = held[sure:]
        if held:
            yield held

    def _pieces(self) -> Iterator[str]:
        """Give characters; some have several bytes, which are tokens of their own."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for byte in self._tokens():
            if character := decoder.decode(bytes([byte])):
                yield character

    def _tokens(self) -> Iterator[int]:
        logits = self._memory.read(self._prompt)
        while not self._matcher.is_stopped():
            if self._written == self._limit:
                self._stop = "length"
                return
            token = self._choose(logits)
            self._matcher.consume_token(token)
            if token == END:
                return
            self._written += 1
            yield token
            logits = self._memory.read(bytes([token]))

    def _choose(self, logits: Floats) -> int:
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8)
        # It gets tired, so that it ends: the more it wrote, the more it wants to close.
        logits[CLOSING] += 0.05 * self._written
        logits = np.where(allowed[:VOCABULARY] > 0, logits, -np.inf)
        if not self._temperature:
            return int(np.argmax(logits))
        chances = softmax(logits.astype(np.float64) / self._temperature)
        return int(self._random.choice(VOCABULARY, p=chances))


class Weights:
    """What a training would have changed: random numbers, of about a megabyte."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)

        def matrix(rows: int, columns: int) -> Floats:
            values = random.standard_normal((rows, columns), dtype=np.float32)
            return values / np.float32(np.sqrt(rows))

        self.embedding = matrix(VOCABULARY, WIDTH) * np.float32(np.sqrt(VOCABULARY))
        self.positions = matrix(WINDOW, WIDTH)
        self.layers = [
            (
                matrix(WIDTH, 3 * WIDTH),
                matrix(WIDTH, WIDTH),
                matrix(WIDTH, 4 * WIDTH),
                matrix(4 * WIDTH, WIDTH),
            )
            for _ in range(LAYERS)
        ]
        self.output = matrix(WIDTH, VOCABULARY)


class Memory:
    """What the model has read: keys and values of each layer, the last `WINDOW` of them."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        empty = np.zeros((0, HEADS, WIDTH // HEADS), dtype=np.float32)
        self._past = [(empty, empty) for _ in range(LAYERS)]
        self._place = 0

    def read(self, tokens: bytes) -> Floats:
        """Read on, and return how likely each token comes next, as logits."""
        places = np.arange(self._place, self._place + len(tokens)) % WINDOW
        self._place += len(tokens)
        weights = self._weights
        state: Floats = weights.embedding[list(tokens)] + weights.positions[places]
        for number, (mixed, joined, wide, narrow) in enumerate(weights.layers):
            state = state + self._attend(number, normed(state) @ mixed) @ joined
            state = state + np.maximum(normed(state) @ wide, 0) @ narrow
        logits: Floats = normed(state[-1]) @ weights.output
        return logits

    def _attend(self, layer: int, mixed: Floats) -> Floats:
        count = len(mixed)
        query, key, value = mixed.reshape(count, 3, HEADS, -1).transpose(1, 0, 2, 3)
        keys, values = self._past[layer]
        keys = np.concatenate([keys, key])[-WINDOW:]
        values = np.concatenate([values, value])[-WINDOW:]
        self._past[layer] = keys, values
        scores = np.einsum("qhd,khd->hqk", query, keys) / np.sqrt(WIDTH // HEADS)
        # Nobody reads ahead.
        ahead = np.triu(np.ones((count, len(keys)), dtype=bool), k=len(keys) - count + 1)
        seen = softmax(np.where(ahead, -np.inf, scores))
        joined: Floats = np.einsum("hqk,khd->qhd", seen, values)
        return joined.reshape(count, WIDTH)


def normed(state: Floats) -> Floats:
    scale = np.sqrt((state * state).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    result: Floats = state / scale
    return result


def softmax(values: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    result: NDArray[Any] = powers / powers.sum(axis=-1, keepdims=True)
    return result
