"""One endpoint as a provider."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.to_thread
from kaizen.errors import (
    InputError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelTimeoutError,
)
from kaizen.media import MAX_MEDIA_BYTES, Audio, Media
from kaizen.messages import (
    Message,
    ModelDelta,
    ModelProfile,
    ModelReply,
    ModelRequest,
    OutputSpec,
    Usage,
)
from kaizen.ports import BaseProvider, Transcript

from kaizen_direct._endpoints import Endpoint
from kaizen_direct._errors import told
from kaizen_direct._http import Exchange, Http, Limits
from kaizen_direct._keys import Keys
from kaizen_direct._prices import Catalogue, Model
from kaizen_direct._settings import PriceSettings, is_header
from kaizen_direct._streams import DONE, Events, Lines, Splitter, TooLong
from kaizen_direct._wire import (
    Answer,
    Assembly,
    Codec,
    Counts,
    Failed,
    Prepared,
    Seam,
    Unreadable,
    Unsendable,
    as_json,
    parsed,
)

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["DirectProvider"]

Read = TypeVar("Read")

MAX_MEDIA_TOTAL = 5 * MAX_MEDIA_BYTES
DRAIN_S = 0.5
ACCOUNT_S = 10.0
CHARS_PER_TOKEN = 4


class DirectProvider(BaseProvider):
    """Asks one endpoint over HTTP.

    An async context manager; its connections are closed at the end of the block.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        keys: Keys,
        limits: Limits | None = None,
        prices: Iterable[PriceSettings] = (),
    ) -> None:
        self.name = endpoint.name
        self._endpoint = endpoint
        self._codec = _codec(endpoint)
        self._limits = limits or Limits()
        self._http = Http(endpoint, keys, self._limits, self._codec.headers)
        self._catalogue = Catalogue(
            endpoint.catalogue, endpoint.name, prices, free=endpoint.local
        )
        self._first = ""

    def __repr__(self) -> str:
        return f"<DirectProvider {self.name!r} at {self._endpoint.base_url!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.close()

    async def complete(self, request: ModelRequest) -> ModelReply:
        call, body = await self._prepared(request, stream=False)
        exchange = await self._send(call, body)
        try:
            answer = self._read(exchange, await exchange.json(), call)
        except ModelError as error:
            if _was_answering(exchange, error):
                error.partial = self._partial(exchange, None, call)
            raise
        return self._reply(answer, call)

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        call, body = await self._prepared(request, stream=True)
        exchange = await self._send(call, body)
        assembly = self._codec.assembly()
        reader = _Reader(self, exchange, assembly, call)
        try:
            if reader.is_whole():
                answer = self._read(exchange, await exchange.json(), call)
                if answer.text or answer.reasoning:
                    yield ModelDelta(text=answer.text, reasoning=answer.reasoning)
            else:
                while (deltas := await reader.more()) is not None:
                    for delta in deltas:
                        yield delta
                if reader.failure is not None:
                    raise reader.failure
                answer = self._assembled(exchange, assembly, call)
        except ModelError as error:
            if assembly.size or _was_answering(exchange, error):
                error.partial = self._partial(exchange, assembly, call)
            raise
        finally:
            await exchange.close()
        yield self._reply(answer, call)

    async def embed(self, texts: Sequence[str], *, model: str = "") -> list[list[float]]:
        if not self._codec.embed_path:
            raise self._unsupported("embed texts")
        if not texts:
            return []
        chosen = model or self._endpoint.embed_model or await self._model("")
        size = self._limits.embed_batch
        found: list[list[float]] = []
        for start in range(0, len(texts), size):
            batch = texts[start : start + size]
            body = as_json(self._codec.embed(batch, chosen))
            exchange = await self._http.ask(self._codec.embed_path, body, model=chosen)
            data = await exchange.json()
            vectors = await anyio.to_thread.run_sync(
                self._guarded, exchange, chosen, self._codec.vectors, data
            )
            if len(vectors) != len(batch):
                raise exchange.unreadable()
            found += vectors
        return found

    async def transcribe(self, audio: Audio, *, model: str = "") -> Transcript:
        if self._endpoint.kind != "openai":
            raise self._unsupported("transcribe audio")
        from kaizen_direct._speech import form, transcript

        chosen = model or self._endpoint.transcribe_model or await self._model("")
        data = await audio.read(max_bytes=MAX_MEDIA_BYTES)
        content_type, body = await anyio.to_thread.run_sync(form, audio, data, chosen)
        exchange = await self._http.ask(
            "/audio/transcriptions", body, model=chosen, content_type=content_type
        )
        said = await exchange.json()
        return self._guarded(exchange, chosen, transcript, said)

    def describe(self, model: str) -> ModelProfile:
        return self._profile(model or self._endpoint.model)

    async def models(self) -> Sequence[ModelProfile]:
        if not self._endpoint.lists:
            return ()
        return [self._profile(name) for name in await self._names()]

    def _profile(self, name: str) -> ModelProfile:
        endpoint = self._endpoint
        known = self._catalogue.find(name)
        price = self._catalogue.priced(name)
        can = known.abilities if known else ""
        media = frozenset(kind for kind in _MEDIA if kind[0] in can)
        continues = endpoint.continues
        return ModelProfile(
            name=name,
            context_window=endpoint.context_window or (known or _UNKNOWN).context_window,
            max_output_tokens=self._longest(known),
            tools=endpoint.tools and (known is None or "t" in can),
            structured_output=endpoint.structured_output and (known is None or "s" in can),
            media=media if known else endpoint.media,
            continues="c" in can if continues is None else continues,
            cached_input_usd_per_million=_cached_price(price),
            input_usd_per_million=None if price is None else price.input,
            output_usd_per_million=None if price is None else price.output,
        )

    def _longest(self, known: Model | None) -> int | None:
        return self._endpoint.max_output_tokens or (known or _UNKNOWN).max_output_tokens

    async def _names(self) -> list[str]:
        exchange = await self._http.ask(self._codec.list_path, None)
        data = await exchange.json()
        return self._guarded(exchange, "", self._codec.names, data)

    async def _model(self, asked: str) -> str:
        """Return the model to ask; a server that runs its own is asked for its first."""
        found = asked or self._endpoint.model or self._first
        if not found and self._endpoint.lists:
            self._first = next(iter(await self._names()), "")
            found = self._first
        if not found:
            raise ModelRequestError(
                self.name,
                "was asked for no model, and has none of its own",
                f"Name one as `{self.name}/…`, or set `model` in "
                f"[plugins.direct.endpoints.{self.name}].",
            )
        return found

    async def _prepared(
        self, request: ModelRequest, *, stream: bool
    ) -> tuple[Prepared, bytes]:
        """Return a request with all that it needs, and the body to post."""
        model = request.model or self._endpoint.model or await self._model("")
        if request.prefix and not self.describe(model).continues:
            raise ModelRequestError(
                self.name,
                f"cannot go on from the beginning of a reply with model {model!r}",
                "Ask anew, without `prefix`.",
            )
        media = await _loaded(request.messages)
        output = request.output or _output(request.settings.extra)
        known = self._catalogue.find(model)
        call = Prepared(request, model, output, media, stream, self._longest(known))
        try:
            if media:
                return call, await anyio.to_thread.run_sync(self._body, call)
            return call, self._body(call)
        except Unsendable as error:
            problem = error.problem
        except ValueError:
            problem = "cannot be sent what is no JSON"
        raise ModelRequestError(self.name, problem, "Change the request.")

    def _body(self, call: Prepared) -> bytes:
        return as_json(self._codec.chat(call))

    async def _send(self, call: Prepared, body: bytes) -> Exchange:
        settings = call.request.settings
        return await self._http.ask(
            self._codec.chat_path,
            body,
            model=call.model,
            timeout_s=settings.timeout_s,
            headers=self._more_headers(settings.extra),
        )

    def _more_headers(self, extra: Mapping[str, Any]) -> Mapping[str, str] | None:
        """Return the headers that a user adds to one request.

        Raises:
            ModelRequestError: They are none; it does not show them, as keys may be there.
        """
        given = extra.get("extra_headers")
        if given is None:
            return None
        if isinstance(given, Mapping) and all(is_header(*each) for each in given.items()):
            return given
        raise ModelRequestError(
            self.name,
            "was given `extra_headers` with a name or a value that no header has",
            "Change them in `provider_config`.",
        )

    def _read(self, exchange: Exchange, data: Any, call: Prepared) -> Answer:
        answer = self._guarded(exchange, call.model, self._codec.read, data)
        answer.text = self.seam(call).without(answer.text)
        return answer

    def seam(self, call: Prepared) -> Seam:
        """Return what watches over the place where a reply goes on."""
        prefix = call.request.prefix
        given = prefix if self._codec.keeps_blanks else prefix.rstrip()
        return Seam(prefix[len(given) :])

    def _guarded(
        self, exchange: Exchange, model: str, read: Callable[[Any], Read], data: Any
    ) -> Read:
        """Read an answer; what it may be instead becomes an error of ours."""
        try:
            return read(data)
        except Failed as failed:
            failure = self.failed(failed.told, model)
        except (Unreadable, ValueError, TypeError):
            failure = exchange.unreadable()
        raise failure

    def failed(self, said: Any, model: str) -> ModelError:
        """Return the error that an answer means which says itself that it failed."""
        return told(self.name, said, key=self._http.key, model=model)

    def _assembled(self, exchange: Exchange, assembly: Assembly, call: Prepared) -> Answer:
        def put_together(_: object) -> Answer:
            return assembly.answer()

        answer = self._guarded(exchange, call.model, put_together, None)
        answer.text = self.seam(call).without(answer.text)
        return answer

    def _reply(self, answer: Answer, call: Prepared) -> ModelReply:
        counts = answer.counts
        return ModelReply(
            text=answer.text,
            tool_uses=answer.tool_uses,
            usage=_usage(counts),
            finish_reason=answer.finish_reason,
            cost_usd=self._cost(counts, answer.model, call.model),
            model=answer.model or call.model,
            reasoning=answer.reasoning,
            provider_data=answer.provider_data,
        )

    def _cost(self, counts: Counts, *models: str) -> Decimal | None:
        return self._catalogue.cost(counts, *models)

    def _partial(
        self, exchange: Exchange, assembly: Assembly | None, call: Prepared
    ) -> ModelReply:
        """Return what had come of an answer, with tokens estimated where none are told."""
        answer = Answer()
        if assembly is not None:
            with suppress(ModelError):
                answer = self._assembled(exchange, assembly, call)
        counts = answer.counts
        if not counts.input:
            counts.input = _guessed_input(call)
        came = 0 if assembly is None else assembly.size
        counts.output = max(counts.output, -(-came // CHARS_PER_TOKEN))
        return self._reply(answer, call)


_MEDIA = ("image", "document", "audio")
_UNKNOWN = Model(name="")


class _Reader:
    """Reads a stream piece by piece.

    Attributes:
        failure: Why it ended, if it did not end well.
    """

    def __init__(
        self, owner: DirectProvider, exchange: Exchange, assembly: Assembly, call: Prepared
    ) -> None:
        self.failure: ModelError | None = None
        self._owner = owner
        self._exchange = exchange
        self._assembly = assembly
        self._call = call
        self._limit = owner._limits.reply_bytes
        lines = owner._codec.lines
        self._splitter: Splitter = Lines(self._limit) if lines else Events(self._limit)
        self._seam = owner.seam(call) if call.request.prefix else None
        self._begun = False
        self._ended = False

    def is_whole(self) -> bool:
        """Whether the answer came in one piece, from a server that streams nothing.

        Raises:
            ModelError: It is no answer at all.
        """
        self._exchange.check_encoding()
        kind = self._exchange.content_type
        if isinstance(self._splitter, Lines):
            good = kind in ("", "application/x-ndjson", "application/json")
        elif kind == "application/json":
            return True
        else:
            good = kind in ("", "text/event-stream")
        if not good:
            raise self._exchange.unreadable()
        return False

    async def more(self) -> list[ModelDelta] | None:
        """Return what came, or `None` at the end.

        Once the answer has begun, an empty piece stands for what shows nothing, as a sign
        of life. What was whole before a failure is given first; the failure then waits.
        """
        if self._ended or self.failure is not None:
            return None
        deltas: list[ModelDelta] = []
        try:
            if self._assembly.done:
                await self._drain()
                return None
            whole = self._assembly.finished
            data = await (self._account() if whole else self._exchange.chunk())
            pieces = self._splitter.rest() if data is None else self._splitter.feed(data)
            self._take(pieces, deltas)
            if data is None:
                self._end()
        except ModelError as error:
            if self._assembly.finished and not self._assembly.done:
                self._ended = True  # the answer is whole; only its account is missing
            else:
                self.failure = error
        except TooLong:
            self.failure = self._exchange.too_large(self._limit)
        return deltas

    def _take(self, pieces: list[bytes], deltas: list[ModelDelta]) -> None:
        assembly = self._assembly
        try:
            for piece in pieces:
                if piece == DONE:
                    assembly.done = True
                    break
                delta = assembly.add(parsed(piece))
                if delta is not None and self._seam is not None:
                    text = self._seam.without(delta.text)
                    delta = ModelDelta(text=text, reasoning=delta.reasoning)
                if delta is not None:
                    deltas.append(delta)
        except Failed as failed:
            failure = self._owner.failed(failed.told, self._call.model)
        except (Unreadable, ValueError, TypeError, AttributeError):
            failure = self._exchange.unreadable()
        else:
            if assembly.size > self._limit:
                raise TooLong
            if deltas:
                self._begun = True
            elif pieces and (self._begun or assembly.finished):
                deltas.append(ModelDelta())
            return
        raise failure

    def _end(self) -> None:
        self._ended = True
        if not self._assembly.finished:
            raise self._exchange.ended_early()

    async def _account(self) -> bytes | None:
        """Wait for what follows a whole answer, but not so long that it seems to hang."""
        with anyio.move_on_after(ACCOUNT_S):
            return await self._exchange.chunk()
        return None

    async def _drain(self) -> None:
        """Wait a moment for the end of the response, so that the connection stays."""
        self._ended = True
        if not self._assembly.finished:
            raise self._exchange.ended_early()
        with anyio.move_on_after(DRAIN_S):
            try:
                while await self._exchange.chunk() is not None:
                    pass
            except ModelError:
                pass


def _codec(endpoint: Endpoint) -> Codec:
    if endpoint.kind == "anthropic":
        from kaizen_direct._anthropic import AnthropicCodec

        return AnthropicCodec(endpoint)
    if endpoint.kind == "ollama":
        from kaizen_direct._ollama import OllamaCodec

        return OllamaCodec(endpoint)
    from kaizen_direct._openai import OpenAiCodec

    return OpenAiCodec(endpoint)


def _was_answering(exchange: Exchange, error: ModelError) -> bool:
    """Whether a model was at work, and is to be paid, when it broke off."""
    kinds = (ModelConnectionError, ModelRequestError, ModelTimeoutError)
    return not exchange.is_page and isinstance(error, kinds)


def _usage(counts: Counts) -> Usage:
    return Usage(
        requests=1,
        input_tokens=counts.input,
        output_tokens=counts.output,
        cached_tokens=counts.cached,
        reasoning_tokens=counts.reasoning,
    )


def _cached_price(price: Model | None) -> Decimal | None:
    if price is None:
        return None
    return price.input if price.cached is None else price.cached


def _guessed_input(call: Prepared) -> int:
    """Return about how many tokens a request has: a token is about four characters."""
    said = sum(len(message.text) for message in call.request.messages)
    said += sum(len(str(each.parameters)) for each in call.request.tools)
    return -(-said // CHARS_PER_TOKEN)


def _output(extra: Mapping[str, Any]) -> OutputSpec | None:
    """Return what a `response_format` among the fields of a user asks for."""
    wanted = extra.get("response_format")
    if not isinstance(wanted, Mapping):
        return None
    if wanted.get("type") == "json_object":
        return OutputSpec(name="output", schema=wanted.get("schema") or {}, strict=False)
    told = wanted.get("json_schema")
    if not isinstance(told, Mapping) or not isinstance(told.get("schema"), Mapping):
        return None
    return OutputSpec(name=str(told.get("name") or "output"), schema=told["schema"])


async def _loaded(messages: Sequence[Message]) -> dict[int, bytes]:
    """Return the bytes of all media that are not on the web, by the `id` of each.

    Raises:
        InputError: They are too large.
        OSError: A file cannot be read.
    """
    found: dict[int, bytes] = {}
    total = 0
    for message in messages:
        if isinstance(message.content, str):
            continue
        for part in message.content:
            if isinstance(part, Media) and part.url is None and id(part) not in found:
                data = found[id(part)] = await part.read()
                total += len(data)
                if total > MAX_MEDIA_TOTAL:
                    raise InputError(
                        "the media of a request",
                        f"are larger than {MAX_MEDIA_TOTAL} bytes together",
                        "Send fewer or smaller ones.",
                    )
    return found
