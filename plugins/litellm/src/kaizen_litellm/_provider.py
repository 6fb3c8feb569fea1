"""A provider that is asked through litellm."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.to_thread
from kaizen.errors import (
    ConfigurationError,
    ModelAuthError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelTimeoutError,
)
from kaizen.media import MAX_MEDIA_BYTES, Audio
from kaizen.messages import ModelDelta, ModelProfile, ModelReply, ModelRequest
from kaizen.ports import BaseProvider, Transcript

from kaizen_litellm._answers import Answer, Assembly, Seam, Unreadable, usage_of, whole
from kaizen_litellm._asking import (
    CHARS_PER_TOKEN,
    OWN_DATA,
    Unsendable,
    asked,
    guessed_input,
    loaded,
    output_of,
)
from kaizen_litellm._errors import (
    ended_early,
    failed,
    filtered,
    missing_account,
    missing_key,
    too_slow,
    unreadable,
)
from kaizen_litellm._line import CLOSE_S, Line, Reading
from kaizen_litellm._names import CLOUDS, COHERE, WITHOUT_RETRIES
from kaizen_litellm._pictures import would_be_fetched
from kaizen_litellm._prices import Catalogue, Model
from kaizen_litellm._probe import listed
from kaizen_litellm._shop import Shop
from kaizen_litellm._speech import file_of, transcript
from kaizen_litellm._targets import PRESETS, Kind, Target

if TYPE_CHECKING:
    from kaizen_litellm._call import Call

__all__ = ["LitellmProvider"]

Read = TypeVar("Read")

_MAY_BE_EMPTY = frozenset({"stop", "tool_calls", "length"})
_SPEAKS_AS_OPENAI = frozenset({"openai", "azure"})


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request, the model that is asked, and what litellm is given."""

    request: ModelRequest
    model: str
    options: dict[str, Any] = field(repr=False)

    @property
    def key(self) -> str:
        """The key that is sent, or `""`."""
        return self.options["api_key"] or ""


class LitellmProvider(BaseProvider):
    """Asks one provider through litellm, on asyncio.

    An async context manager; its connections are closed at the end of the block.
    """

    def __init__(self, target: Target, shop: Shop) -> None:
        self.name = target.name
        self._target = target
        self._shop = shop
        self._line = Line(target, shop.limits())
        self._known: Catalogue | None = None
        self._key: str | None = None
        self._first = ""

    def __repr__(self) -> str:
        return f"<LitellmProvider {self.name!r} at {self._target.base_url!r}>"

    async def __aenter__(self) -> Self:
        await self._shop.stock()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._line.close()

    async def complete(self, request: ModelRequest) -> ModelReply:
        ready = await self._prepared(request)
        call = await self._call("chat", ready)

        def read(response: Any) -> ModelReply:
            answer = whole(response, call.watch.reason if call.watch.knows else "")
            watch = call.watch
            answer.fill(watch.text, watch.thoughts(), watch.usage)
            answer = self._counted(answer, ready, answer.size)
            answer.text = Seam(request.prefix).without(answer.text)
            return self._checked(answer, ready)

        try:
            return await self._answer(call, "acompletion", ready, read)
        except ModelError as error:
            if error.partial is None and _was_answering(call, error):
                error.partial = self._partial(ready, None)
            raise

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        if self._comes_whole(request):
            reply = await self.complete(request)
            if reply.text or reply.reasoning:
                yield ModelDelta(text=reply.text, reasoning=reply.reasoning)
            yield reply
            return
        ready = await self._prepared(request, stream=True)
        call = await self._call("chat", ready, stream=True)
        assembly = Assembly(request.prefix)
        try:
            async with aclosing(self._deltas(call, ready, assembly)) as deltas:
                async for delta in deltas:
                    yield delta
        except ModelError as error:
            if assembly.size or _was_answering(call, error):
                error.partial = self._partial(ready, assembly)
            raise
        yield self._checked(self._counted(assembly.answer(), ready, assembly.size), ready)

    async def embed(self, texts: Sequence[str], *, model: str = "") -> list[list[float]]:
        route = self._route("embed", "embed texts")
        if not texts:
            return []
        chosen = model or self._target.embed_model or await self._model("")
        size = self._shop.settings.embed_batch
        found: list[list[float]] = []
        for start in range(0, len(texts), size):
            batch = list(texts[start : start + size])
            options = self._options("embed", chosen) | {"input": batch}
            if route in _SPEAKS_AS_OPENAI:
                options["encoding_format"] = "float"
            ready = _Prepared(ModelRequest(messages=()), chosen, options)
            call = await self._call("embed", ready)
            vectors = await self._answer(call, "aembedding", ready, _vectors)
            if len(vectors) != len(batch):
                raise unreadable(self.name)
            found += vectors
        return found

    async def transcribe(self, audio: Audio, *, model: str = "") -> Transcript:
        route = self._route("transcribe", "transcribe audio")
        chosen = model or self._target.transcribe_model or await self._model("")
        data = await audio.read(max_bytes=MAX_MEDIA_BYTES)
        options = self._options("transcribe", chosen) | {"file": file_of(audio, data)}
        if route in _SPEAKS_AS_OPENAI and "transcribe" not in chosen:
            options["response_format"] = "verbose_json"  # with language and duration
        ready = _Prepared(ModelRequest(messages=()), chosen, options)
        call = await self._call("transcribe", ready)
        return await self._answer(call, "atranscription", ready, _heard)

    def describe(self, model: str) -> ModelProfile:
        name = model or self._target.model
        known = self._catalogue.find(name) or {}
        price = self._catalogue.priced(name) if name else None
        target = self._target
        continues = target.continues
        if continues is None:
            continues = bool(known.get("supports_assistant_prefill"))
        return ModelProfile(
            name=name,
            context_window=_size(known, "max_input_tokens", "max_tokens"),
            max_output_tokens=_size(known, "max_output_tokens"),
            tools=_can(known, "function_calling", unless=target.local),
            structured_output=_can(known, "response_schema", unless=target.local),
            media=_media(known),
            continues=continues,
            cached_input_usd_per_million=_cached_price(price),
            input_usd_per_million=None if price is None else price.input,
            output_usd_per_million=None if price is None else price.output,
        )

    async def models(self) -> Sequence[ModelProfile]:
        if self._target.lists:
            names = await listed(self._target.list_url)
        else:
            names = sorted(set(self._catalogue.names()))
        return [self.describe(name) for name in names]

    @property
    def _catalogue(self) -> Catalogue:
        if self._known is None:
            self._known = self._shop.catalogue(self._target)
        return self._known

    def _comes_whole(self, request: ModelRequest) -> bool:
        """Whether a reply cannot be streamed: litellm would make up a stream, and badly."""
        if request.tools and self._target.routes.get("chat") == COHERE:
            return True
        known = self._catalogue.find(request.model or self._target.model) or {}
        return known.get("supports_native_streaming") is False

    def _route(self, kind: Kind, ability: str) -> str:
        route = self._target.routes.get(kind)
        if route is None:
            raise self._unsupported(ability)
        return route

    async def _model(self, asked_for: str) -> str:
        """Return the model to ask; a server that runs its own is asked for its first."""
        target = self._target
        found = asked_for or target.model or self._first
        if not found and target.lists:
            names = await listed(target.list_url)
            found = self._first = next(iter(names), "")
        if not found:
            raise ModelRequestError(
                self.name,
                "was asked for no model, and has none of its own",
                f"Name one as `{self.name}/…`, or set `model` in "
                f"[plugins.litellm.providers.{self.name}].",
            )
        return found

    def _options(self, kind: Kind, model: str) -> dict[str, Any]:
        """Return what litellm is given with every request."""
        target = self._target
        route = target.routes[kind]
        if not target.base_url and self._is_known:
            raise ConfigurationError(
                f"provider {self.name!r}",
                "has no address",
                "Set AZURE_AI_INFERENCE_ENDPOINT or AZURE_OPENAI_ENDPOINT, or `base_url` "
                f"in [plugins.litellm.providers.{self.name}].",
            )
        if self._key is None:
            self._key = self._shop.key(target)
        stand_in = target.stand_in if route == "openai" else ""
        made: dict[str, Any] = {
            "model": f"{route}/{model}",
            "api_key": self._key or stand_in or None,
            "api_base": target.api_base(kind),
            "caching": False,  # whatever an application has set for its own calls
        }
        if route not in WITHOUT_RETRIES:
            made |= {"max_retries": 0, "num_retries": 0}
        if target.api_version:
            made["api_version"] = target.api_version
        if target.headers and kind == "embed":
            made["extra_headers"] = dict(target.headers)
        return made

    async def _prepared(self, request: ModelRequest, *, stream: bool = False) -> _Prepared:
        """Return a request with all that it needs."""
        self._route("chat", "answer messages")
        model = request.model or self._target.model or await self._model("")
        self._check(request, model)
        options = self._options("chat", model)
        if stream:
            options |= {"stream": True, "stream_options": {"include_usage": True}}
        media = await loaded(request.messages)
        output = output_of(request)
        natively = output is None or self._holds(model, with_tools=bool(request.tools))
        make = partial(asked, request, self._target, output, media, natively=natively)
        try:
            # What holds large data is encoded in a thread.
            said = await anyio.to_thread.run_sync(make) if media else make()
        except Unsendable as error:
            problem = error.problem
        except ValueError:
            problem = "cannot be sent what is no JSON"
        else:
            return _Prepared(request, model, options | said)
        raise ModelRequestError(self.name, problem, "Change the request.")

    def _check(self, request: ModelRequest, model: str) -> None:
        """Refuse what cannot be asked of a model, or is not to be."""
        if request.prefix and not self.describe(model).continues:
            raise ModelRequestError(
                self.name,
                f"cannot go on from the beginning of a reply with model {model!r}",
                "Ask anew, without `prefix`.",
            )
        if would_be_fetched(self._target.routes["chat"], request.messages):
            raise ModelRequestError(
                self.name,
                "is given no images by their address: litellm would fetch them unguarded",
                "Fetch them with a tool that may do so, and give their bytes.",
            )

    def _holds(self, model: str, *, with_tools: bool) -> bool:
        """Say whether a model is held to a schema by its provider."""
        if with_tools:
            known = self._catalogue.find(model) or {}
            if not self._target.holds_with_tools(model, known):
                return False
        return self.describe(model).structured_output

    async def _call(self, kind: Kind, ready: _Prepared, *, stream: bool = False) -> Call:
        """Begin a call; its time begins, too."""
        seconds = self._seconds(ready)
        deadline = anyio.current_time() + seconds
        if self._line.is_open:
            clients = await self._line.open()
        else:
            with anyio.move_on_after(seconds) as scope:
                clients = await self._line.open()
            if scope.cancelled_caught:
                raise too_slow(self.name)
        from kaizen_litellm._call import Call
        from kaizen_litellm._watch import Watch

        return Call(
            clients,
            Watch(self._target.routes[kind] if self._is_known else ""),
            stream=stream,
            deadline=deadline,
            own_key=ready.key,
            foreign=not self._is_known,
        )

    @property
    def _is_known(self) -> bool:
        """Whether it is known what is sent, how, and what comes back."""
        return self._target.name in PRESETS

    def _seconds(self, ready: _Prepared) -> float:
        asked_for = ready.request.settings.timeout_s
        return self._shop.settings.timeout_s if asked_for is None else asked_for

    async def _answer(
        self, call: Call, function: str, ready: _Prepared, read: Callable[[Any], Read]
    ) -> Read:
        """Ask, and read what comes; whatever else happens becomes an error of ours."""
        try:
            return read(await self._asked(call, function, ready))
        except Exception as error:  # noqa: BLE001 - rebuilt, whatever litellm raises
            failure = self._failure(error, call, ready)
        finally:
            await self._closed(call)
        raise failure

    async def _deltas(
        self, call: Call, ready: _Prepared, assembly: Assembly
    ) -> AsyncGenerator[ModelDelta]:
        """Ask, and give what comes piece by piece.

        Once the answer has begun, an empty piece stands for what shows nothing, as a sign
        of life.
        """
        broken: ModelError | None = None
        begun = False
        response: Any = None
        try:
            response = await self._asked(call, "acompletion", ready)
            reading = Reading(call, response, assembly)
            while not reading.ended:
                delta = await reading.more()
                if delta is not None:
                    begun = True
                    yield delta
                elif begun and not reading.ended:
                    yield ModelDelta()
        except Exception as error:  # noqa: BLE001 - rebuilt, whatever litellm raises
            broken = self._failure(error, call, ready)
        finally:
            await self._closed(call, response)
        if not call.watch.is_bad and (broken is None or _is_cut(call, broken)):
            # A stream that breaks off after the model has ended is whole.
            self._end(call, response, assembly)
        if not assembly.finished:
            raise broken or ended_early(self.name)

    async def _asked(self, call: Call, function: str, ready: _Prepared) -> Any:
        """Return what litellm answers."""
        options = self._with_client(call, ready.options | {"timeout": self._seconds(ready)})
        with anyio.fail_after(call.deadline - anyio.current_time()):
            return await self._line.ask(call, function, options)

    def _end(self, call: Call, response: Any, assembly: Assembly) -> None:
        """Note whether and why the model has ended, by whoever can tell."""
        watch = call.watch
        if watch.knows:
            assembly.note({"usage": watch.usage})
            assembly.end(watch.reason)
        else:
            assembly.end(getattr(response, "received_finish_reason", None))

    def _with_client(self, call: Call, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options with our client, for routes that have one of their own."""
        if self._target.routes.get("chat") in ("anthropic", "gemini"):
            options["client"] = call.clients.handler
        return options

    async def _closed(self, call: Call, response: Any = None) -> None:
        """Close what is still coming, also where the caller is cancelled."""
        if not call.is_open and response is None:
            return
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_S):
            if response is not None and hasattr(response, "aclose"):
                with suppress(Exception):
                    await response.aclose()
            await call.close()

    def _failure(self, error: Exception, call: Call, ready: _Prepared) -> ModelError:
        if isinstance(error, ModelError):
            return error
        if isinstance(error, TimeoutError):
            return too_slow(self.name)
        if isinstance(error, Unreadable):
            return unreadable(self.name)
        failure = failed(
            self.name, error, call, key=ready.key, model=ready.model, options=ready.options
        )
        if call.unkeyed or isinstance(failure, ModelAuthError):
            self._key = None  # to be looked up again: it may be another one by then
            headers = self._target.headers or "extra_headers" in ready.options
            if call.unkeyed or not (ready.key or headers):
                return self._unkeyed(failure)
        return failure

    def _unkeyed(self, failure: ModelError) -> ModelError:
        """Return the error of a call to which no key was given, and that failed for one."""
        target = self._target
        if self.name not in CLOUDS:
            return missing_key(
                self.name, target.key_variables, target.key_from, failure.status
            )
        if failure.status:  # its cloud has refused the account that litellm found
            return failure
        return missing_account(self.name, target.key_variables)

    def _checked(self, answer: Answer, ready: _Prepared) -> ModelReply:
        """Return the reply, unless it is empty for no good reason."""
        reply = self._reply(answer, ready)
        if reply.text or reply.tool_uses or reply.finish_reason in _MAY_BE_EMPTY:
            return reply
        if reply.finish_reason == "content_filter":
            failure = filtered(self.name)
        else:
            # Such as Gemini's MALFORMED_FUNCTION_CALL.
            failure = unreadable(self.name)
        failure.partial = reply
        raise failure

    def _reply(self, answer: Answer, ready: _Prepared) -> ModelReply:
        model, route = answer.model, self._target.routes["chat"]
        if model == f"{route}/{ready.model}":  # as litellm writes it
            model = ready.model
        kept = answer.kept
        if kept:
            kept = {OWN_DATA: {"route": route, **kept}}
        return ModelReply(
            text=answer.text,
            tool_uses=answer.tool_uses,
            usage=usage_of(answer.counts),
            finish_reason=answer.finish_reason,
            cost_usd=self._catalogue.cost(answer.counts, model, ready.model),
            model=model or ready.model,
            reasoning=answer.reasoning,
            provider_data=kept or None,
        )

    def _partial(self, ready: _Prepared, assembly: Assembly | None) -> ModelReply:
        """Return what had come of an answer, with tokens estimated where none are told."""
        if assembly is None:
            return self._reply(self._counted(Answer(), ready, 0), ready)
        answer = assembly.answer()
        if not assembly.finished:
            answer.counts.known = False  # what was counted may not be all
        return self._reply(self._counted(answer, ready, assembly.size), ready)

    def _counted(self, answer: Answer, ready: _Prepared, size: int) -> Answer:
        """Return an answer with tokens estimated where its provider has not counted."""
        counts = answer.counts
        if not counts.known:
            counts.input = counts.input or guessed_input(ready.request)
            counts.output = max(counts.output, -(-size // CHARS_PER_TOKEN))
        return answer


def _is_cut(call: Call, broken: ModelError) -> bool:
    """Whether a stream ended as nothing more came: what had come was read before."""
    return call.failure is not None or isinstance(broken, ModelTimeoutError)


def _was_answering(call: Call, error: ModelError) -> bool:
    """Whether a model was at work, and is to be paid, when it broke off."""
    kinds = (ModelConnectionError, ModelRequestError, ModelTimeoutError)
    return call.status == 200 and not call.is_page and isinstance(error, kinds)


def _vectors(response: Any) -> list[list[float]]:
    found = response.data
    if not isinstance(found, list):
        raise Unreadable
    places = [
        each["index"] if each["index"] is not None else at for at, each in enumerate(found)
    ]
    ordered = [
        found[at]["embedding"] for at in sorted(range(len(found)), key=places.__getitem__)
    ]
    return [[float(value) for value in vector] for vector in ordered]


def _heard(response: Any) -> Transcript:
    found = transcript(response)
    if found is None:
        raise Unreadable
    return found


def _size(known: Any, *names: str) -> int | None:
    found = next((known[name] for name in names if known.get(name)), None)
    return int(found) if isinstance(found, int | float) else None


def _can(known: Any, ability: str, *, unless: bool) -> bool:
    """Whether a model can do something; of one that is not known, most can."""
    return True if unless or not known else bool(known.get(f"supports_{ability}"))


def _media(known: Any) -> frozenset[str]:
    if not known:
        return frozenset({"image"})
    kinds = {"image": "vision", "document": "pdf_input", "audio": "audio_input"}
    return frozenset(
        kind for kind, ability in kinds.items() if known.get(f"supports_{ability}")
    )


def _cached_price(price: Model | None) -> Any:
    if price is None:
        return None
    return price.input if price.cached is None else price.cached
