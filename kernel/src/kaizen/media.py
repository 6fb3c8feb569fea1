r"""Pictures, recordings and documents as values of a signature's fields.

    photo: Image = InputField(desc="What to describe")

    Image("photo.png")   Image(Path("photo.png"))   Image(b"\x89PNG...")
    Image("https://example.org/photo.png")   Image("data:image/png;base64,...")

A field of such a type takes the same things without the constructor. Making a value
looks at names and at bytes already in memory: it reads no file and asks no network.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NoReturn, Self, TypeAlias
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import anyio
import anyio.to_thread
from pydantic_core import PydanticCustomError, core_schema

from kaizen.errors import InputError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
__all__ = [
    "MAX_MEDIA_BYTES",
    "NO_LOCAL_FILES",
    "Audio",
    "Document",
    "Image",
    "Media",
    "MediaKind",
    "MediaSource",
]

MediaKind: TypeAlias = Literal["image", "audio", "document"]
MediaSource: TypeAlias = "str | Path | bytes | Media"

MAX_MEDIA_BYTES: Final = 20 * 1024 * 1024
"""The most bytes that a value holds in memory, and that `read` reads unless told."""

NO_LOCAL_FILES: Final[Mapping[str, Any]] = MappingProxyType({"local_files": False})
"""A pydantic validation context under which a media field refuses paths.

For values that a stranger wrote, such as a model's reply: a path in them would read
whatever this process may read.
"""

_MAX_URL = 8192
_IN_THREAD = 1024 * 1024

_SUFFIXES: Final[Mapping[str, str]] = {
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
    ".aac": "audio/aac",
    ".aif": "audio/aiff",
    ".aiff": "audio/aiff",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/opus",
    ".wav": "audio/wav",
    ".weba": "audio/webm",
    ".csv": "text/csv",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".htm": "text/html",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".pdf": "application/pdf",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rtf": "application/rtf",
    ".txt": "text/plain",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xml": "application/xml",
}

# Patterns of first bytes, most specific first.
_MAGIC: Final = tuple(
    (re.compile(pattern, re.DOTALL), media_type)
    for pattern, media_type in (
        (rb"\x89PNG\r\n\x1a\n", "image/png"),
        (rb"\xff\xd8\xff", "image/jpeg"),
        (rb"GIF8[79]a", "image/gif"),
        (rb"RIFF....WEBP", "image/webp"),
        (rb"BM....\x00\x00\x00\x00", "image/bmp"),
        (rb"II\*\x00|MM\x00\*", "image/tiff"),
        (rb"....ftypavi[fs]", "image/avif"),
        (rb"....ftyp(?:hei[cx]|mif1)", "image/heic"),
        (rb"....ftypM4A", "audio/mp4"),
        (rb"RIFF....WAVE", "audio/wav"),
        (rb"OggS", "audio/ogg"),
        (rb"fLaC", "audio/flac"),
        (rb"FORM....AIF[FC]", "audio/aiff"),
        (rb"\xff[\xf1\xf9]", "audio/aac"),
        (rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "audio/mpeg"),
        (rb"%PDF-", "application/pdf"),
        (rb"\{\\rtf", "application/rtf"),
        (rb"PK\x03\x04.{0,4000}word/", _SUFFIXES[".docx"]),
        (rb"PK\x03\x04.{0,4000}xl/", _SUFFIXES[".xlsx"]),
        (rb"PK\x03\x04.{0,4000}ppt/", _SUFFIXES[".pptx"]),
    )
)

_BASE64_STARTS = ("iVBORw0", "/9j/", "R0lGOD", "UklGR", "JVBERi", "SUQz", "T2dnUw", "AAAA")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")


class _Refused(ValueError):
    """A source cannot be used.

    `reason` never holds the source, so that it can be shown where values may not be.
    """

    def __init__(self, kind: str, reason: str, source: str = "") -> None:
        super().__init__(kind, reason, source)
        self.reason = reason
        self._subject = f"{kind} {source!r}" if source else kind

    def __str__(self) -> str:
        return f"{self._subject}: {self.reason}"


class Media:
    """Something that is not text; see `Image`, `Audio` and `Document`.

    As the type of a field it takes any of the three. A frozen value, compared by its
    attributes; no dataclass, because pydantic would take those apart.

    Attributes:
        kind: What it is.
        media_type: Such as `image/png`; `image/*` where a URL does not tell.
        path: Where it lies, if it is a file. Exactly one of `path`, `url` and `data`
            is set.
        url: Where it can be fetched, if it is on the web.
        data: Its bytes, if it is in memory; a data URL is decoded.
    """

    __slots__ = ("__weakref__", "data", "media_type", "path", "url")

    kind: ClassVar[MediaKind]

    media_type: str
    path: Path | None
    url: str | None
    data: bytes | None

    def __init__(self, source: MediaSource, *, media_type: str | None = None) -> None:
        """Describe a source.

        Args:
            source: A path to a file that exists; the bytes themselves; an http, https
                or data URL; or another value of the same kind.
            media_type: What it is, where neither its name nor its first bytes tell.

        Raises:
            ValueError: The source is not there, is too large, or is of another kind.
        """
        if type(self) is Media:
            raise TypeError("Media is abstract: make an Image, an Audio or a Document")
        found, chosen = _describe(self.kind, source, media_type)
        _fill(self, chosen, **found)

    @classmethod
    def from_path(cls, path: str | Path, *, media_type: str | None = None) -> Self:
        """Describe a file, which must exist."""
        return cls(Path(path), media_type=media_type)

    @classmethod
    def from_bytes(cls, data: bytes, *, media_type: str | None = None) -> Self:
        """Keep bytes, at most `MAX_MEDIA_BYTES`."""
        return cls(data, media_type=media_type)

    @classmethod
    def from_url(cls, url: str, *, media_type: str | None = None) -> Self:
        """Keep an http, https or data URL."""
        if not _is_url(url):
            raise _Refused(cls.kind, "is not a URL; give one that starts with https://")
        return cls(url, media_type=media_type)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"cannot set {name!r}: an {type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"cannot delete {name!r}: an {type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Media) or type(self) is not type(other):
            return NotImplemented
        return _state(self) == _state(other)

    def __hash__(self) -> int:
        return hash((type(self), *_state(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), *_state(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_origin(self)}, media_type={self.media_type!r})"

    async def read(self, *, max_bytes: int = MAX_MEDIA_BYTES) -> bytes:
        """Return the bytes of what is in memory or in a file.

        Raises:
            InputError: It is larger than `max_bytes`, or it is a URL: fetching one is
                for the provider or for a tool.
            OSError: The file cannot be read.
        """
        if self.url is not None:
            raise InputError(
                f"{self.kind} {_origin(self)}",
                "is a URL, and nothing is fetched here",
                "Let the provider or a tool fetch it, or give the bytes or a path.",
            )
        data = self.data
        if data is None:
            assert self.path is not None
            async with await anyio.open_file(self.path, "rb") as file:
                data = await file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise InputError(
                f"{self.kind} {_origin(self)}",
                f"is larger than {max_bytes} bytes",
                "Give a smaller one, or raise `max_bytes`.",
            )
        return data

    async def to_data_url(self, *, max_bytes: int = MAX_MEDIA_BYTES) -> str:
        """Return it as `data:image/png;base64,...`; limits and errors as for `read`."""
        data = await self.read(max_bytes=max_bytes)
        if len(data) > _IN_THREAD:
            encoded = await anyio.to_thread.run_sync(b64encode, data)
        else:
            encoded = b64encode(data)
        return f"data:{self.media_type};base64,{encoded.decode('ascii')}"

    def to_json(self) -> dict[str, str]:
        """Return what a field of this type turns back into an equal value."""
        shared = {"kind": self.kind, "media_type": self.media_type}
        if self.path is not None:
            return {**shared, "path": str(self.path)}
        if self.url is not None:
            return {**shared, "url": self.url}
        return {**shared, "data": b64encode(self.data or b"").decode("ascii")}

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                Media.to_json, when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        kinds = [member.kind for member in _classes(cls)]
        optional = {"anyOf": [{"type": "string"}, {"type": "null"}]}
        return {
            "title": cls.__name__,
            "type": "object",
            "contentMediaType": f"{kinds[0]}/*" if len(kinds) == 1 else "*/*",
            "properties": {
                "kind": {"type": "string", "enum": kinds},
                "media_type": {"type": "string"},
                "path": optional,
                "url": optional,
                "data": {**optional, "description": "In base64. Or else a url or path."},
            },
            "required": ["kind", "media_type"],
            "additionalProperties": False,
            **handler(core_schema.any_schema()),  # what a field says about itself
        }

    @classmethod
    def _validate(cls, value: Any, info: core_schema.ValidationInfo) -> Media:
        try:
            return _coerce(cls, value, local_files=_allows_local_files(info.context))
        except _Refused as error:
            reason = error.reason.replace("{", "(").replace("}", ")")
        raise PydanticCustomError("media", reason)


class Image(Media):
    """A picture."""

    __slots__ = ()
    kind: ClassVar[MediaKind] = "image"


class Audio(Media):
    """A recording."""

    __slots__ = ()
    kind: ClassVar[MediaKind] = "audio"


class Document(Media):
    """A text, a PDF, a sheet: what people call a document."""

    __slots__ = ()
    kind: ClassVar[MediaKind] = "document"


def _classes(cls: type[Media]) -> tuple[type[Media], ...]:
    return (Image, Audio, Document) if cls is Media else (cls,)


def _allows_local_files(context: Any) -> bool:
    return not (isinstance(context, Mapping) and context.get("local_files") is False)


def _coerce(cls: type[Media], value: Any, *, local_files: bool) -> Media:
    if isinstance(value, cls):
        _forbid_path(value.kind, value.path, local_files)
        return value
    if isinstance(value, dict):
        return _from_json(cls, value, local_files=local_files)
    kind = "media" if cls is Media else cls.kind
    if isinstance(value, Media):
        raise _Refused(kind, f"should be {_a(kind)}, got {_a(value.kind)}")
    if not isinstance(value, str | Path | bytes):
        raise _Refused(kind, "should be a path, bytes, an https URL or a data URL")
    if not isinstance(value, bytes) and not _is_url(str(value)):
        _forbid_path(kind, value, local_files)
    return _class_of(cls, value)(value)


def _class_of(cls: type[Media], source: str | Path | bytes) -> type[Media]:
    if cls is not Media:
        return cls
    guess = _guess(source)
    if guess is None:
        raise _Refused("media", "is of no known type; pass an Image, Audio or Document")
    return next(member for member in _classes(cls) if member.kind == _kind_of(guess))


def _forbid_path(kind: str, path: object, local_files: bool) -> None:
    if path is not None and not local_files:
        raise _Refused(kind, "is a local file, which is not allowed here; give a URL")


def _from_json(cls: type[Media], value: dict[Any, Any], *, local_files: bool) -> Media:
    """Turn what `Media.to_json` made back into a value.

    A file need not exist any more: what was stored stays readable.
    """
    kind = value.get("kind")
    owner = next((member for member in _classes(cls) if member.kind == kind), None)
    if owner is None:
        expected = " or ".join(repr(member.kind) for member in _classes(cls))
        raise _Refused(cls.__name__, f"should have kind {expected}")
    given = {k: v for k in ("path", "url", "data") if (v := value.get(k)) is not None}
    media_type = value.get("media_type")
    if len(given) != 1 or not all(
        isinstance(v, str) for v in (media_type, *given.values())
    ):
        raise _Refused(kind or "", "should have a media_type and one of path, url and data")
    assert isinstance(media_type, str)
    if "path" in given:
        _forbid_path(owner.kind, given["path"], local_files)
        _check_kind(owner.kind, media_type)
        return _make(owner, media_type, path=Path(given["path"]))
    if "url" in given:
        return owner.from_url(given["url"], media_type=media_type)
    return owner(_decoded(owner.kind, given["data"]), media_type=media_type)


def _make(
    cls: type[Media],
    media_type: str,
    path: Path | None = None,
    url: str | None = None,
    data: bytes | None = None,
) -> Media:
    made = object.__new__(cls)
    _fill(made, media_type, path=path, url=url, data=data)
    return made


def _fill(media: Media, media_type: str, **found: Any) -> None:
    object.__setattr__(media, "media_type", media_type)
    for name in ("path", "url", "data"):
        object.__setattr__(media, name, found.get(name))


def _state(media: Media) -> tuple[str, Path | None, str | None, bytes | None]:
    return media.media_type, media.path, media.url, media.data


def _describe(
    kind: MediaKind, source: MediaSource, media_type: str | None
) -> tuple[dict[str, Any], str]:
    """Return where the source is, and its media type."""
    found: dict[str, Any]
    if isinstance(source, Media):
        _check_kind(kind, source.media_type, source.kind)
        chosen = media_type or source.media_type
        found = {"path": source.path, "url": source.url, "data": source.data}
    elif isinstance(source, bytes):
        found, chosen = _describe_bytes(kind, source, media_type)
    elif isinstance(source, str) and source[:5].lower() == "data:":
        found, chosen = _describe_data_url(kind, source, media_type)
    elif isinstance(source, str) and _SCHEME.match(source):
        found, chosen = _describe_url(kind, source, media_type)
    elif isinstance(source, str | Path):
        found, chosen = _describe_path(kind, source, media_type)
    else:
        raise TypeError(f"{kind}: should be a path, bytes or a URL, not {type(source)!r}")
    _check_kind(kind, chosen)
    return found, chosen


def _describe_bytes(
    kind: MediaKind, data: bytes, media_type: str | None
) -> tuple[dict[str, Any], str]:
    if not data:
        raise _Refused(kind, "is empty")
    if len(data) > MAX_MEDIA_BYTES:
        raise _Refused(kind, f"is larger than {MAX_MEDIA_BYTES} bytes; pass a path instead")
    guess = _guess(data)
    if guess is not None and guess != "text/plain":
        _check_kind(kind, guess)
    if guess == "text/plain" and kind != "document":
        guess = None
    if (chosen := media_type or guess) is None:
        raise _Refused(
            kind, f"has bytes of no known type; pass media_type={_example(kind)!r}"
        )
    return {"data": data}, chosen


def _describe_data_url(
    kind: MediaKind, url: str, media_type: str | None
) -> tuple[dict[str, Any], str]:
    header, comma, body = url[5:].partition(",")
    if not comma:
        raise _Refused(
            kind, "is a data URL without a comma; write data:image/png;base64,..."
        )
    declared, *parameters = header.split(";")
    if "base64" in parameters:
        data = _decoded(kind, body)
    else:
        data = unquote_to_bytes(_bounded(kind, body, MAX_MEDIA_BYTES))
    return _describe_bytes(kind, data, media_type or declared.strip().lower() or None)


def _describe_url(
    kind: MediaKind, url: str, media_type: str | None
) -> tuple[dict[str, Any], str]:
    parts = _split(kind, _bounded(kind, url, _MAX_URL))
    if parts.scheme.lower() not in ("http", "https"):
        raise _Refused(kind, "may be an http, https or data URL, and no other")
    if not parts.hostname or any(character.isspace() for character in url):
        raise _Refused(kind, "is a URL without a host or with spaces in it")
    guess = _SUFFIXES.get(PurePosixPath(parts.path).suffix.lower())
    return {"url": url}, media_type or guess or _any(kind)


def _describe_path(
    kind: MediaKind, path: str | Path, media_type: str | None
) -> tuple[dict[str, Any], str]:
    if not os.path.isfile(path):  # noqa: PTH113  # False too for what can be no path
        raise _no_file(kind, path)
    chosen = media_type or _guess(Path(path))
    if chosen is None:
        raise _Refused(
            kind,
            f"has a name that does not tell its type; pass media_type={_example(kind)!r}",
            _shown(path),
        )
    return {"path": Path(path)}, chosen


def _no_file(kind: MediaKind, path: str | Path) -> _Refused:
    if isinstance(path, str) and _looks_like_base64(path):
        return _Refused(
            kind,
            "looks like bare base64; pass the decoded bytes, "
            f"a data URL ('data:{_example(kind)};base64,...') or a path",
        )
    return _Refused(
        kind,
        "is not a file that exists; pass the path of one, bytes, an https or a data URL",
        _shown(path),
    )


def _looks_like_base64(text: str) -> bool:
    if len(text) < 16 or not _BASE64.fullmatch(text):
        return False
    return len(text) > 255 or text.startswith(_BASE64_STARTS) or text.rstrip()[-1] == "="


def _check_kind(kind: MediaKind, media_type: str, actual: MediaKind | None = None) -> None:
    if not re.fullmatch(r"[a-z]+/[A-Za-z0-9.+*_-]{1,100}", media_type):
        raise _Refused(
            kind, f"has a malformed media type; write one like {_example(kind)!r}"
        )
    if media_type.startswith("video/"):
        raise _Refused(kind, f"holds {media_type}, and video is not supported")
    actual = actual or _kind_of(media_type)
    if actual != kind:
        raise _Refused(
            kind, f"holds {media_type}, which is {_a(actual)}; use {actual.capitalize()}"
        )


def _guess(source: str | Path | bytes) -> str | None:
    if isinstance(source, bytes):
        known = next((t for pattern, t in _MAGIC if pattern.match(source)), None)
        return known or ("text/plain" if _is_text(source[:4096]) else None)
    text = str(source)
    if text[:5].lower() == "data:":
        return re.split("[;,]", text[5:200], maxsplit=1)[0].lower() or None
    path = urlsplit(text).path if isinstance(source, str) and _is_url(text) else text
    return _SUFFIXES.get(PurePosixPath(path).suffix.lower())


def _is_text(start: bytes) -> bool:
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4 and b"\0" not in start
    return b"\0" not in start


def _kind_of(media_type: str) -> MediaKind:
    main = media_type.partition("/")[0]
    return "image" if main == "image" else "audio" if main == "audio" else "document"


def _is_url(text: str) -> bool:
    return text[:5].lower() == "data:" or _SCHEME.match(text) is not None


def _split(kind: str, url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        pass
    raise _Refused(kind, "is not a well-formed URL")


def _decoded(kind: str, text: str) -> bytes:
    _bounded(kind, text, MAX_MEDIA_BYTES * 4 // 3 + 4)
    try:
        return b64decode(text, validate=True)
    except ValueError:
        pass
    raise _Refused(kind, "is not valid base64")


def _bounded(kind: str, text: str, limit: int) -> str:
    if len(text) > limit:
        raise _Refused(kind, f"is longer than {limit} characters; pass a path instead")
    return text


def _origin(media: Media) -> str:
    """Say where it comes from, without bytes and without the secrets of a URL."""
    if media.path is not None:
        return repr(str(media.path))
    if media.url is not None:
        parts = urlsplit(media.url)
        return repr(f"{parts.scheme}://{parts.hostname}{parts.path}"[:200])
    return f"<{len(media.data or b'')} bytes>"


def _shown(path: str | Path) -> str:
    text = str(path)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _a(kind: str) -> str:
    return {"audio": "audio", "image": "an image"}.get(kind, f"a {kind}")


def _any(kind: MediaKind) -> str:
    return "application/*" if kind == "document" else f"{kind}/*"


def _example(kind: MediaKind) -> str:
    examples = {"image": "image/png", "audio": "audio/wav", "document": "application/pdf"}
    return examples[kind]
