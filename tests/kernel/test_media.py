from __future__ import annotations

import base64
import copy
import gc
import json
import os
import pickle
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
from kaizen.errors import InputError
from kaizen.media import MAX_MEDIA_BYTES, NO_LOCAL_FILES, Audio, Document, Image, Media
from pydantic import TypeAdapter, ValidationError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt "
URL = "https://example.org/photo.png"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    return path


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


# Where it comes from


def test_a_picture_is_made_of_a_path(photo: Path) -> None:
    for made in (Image(photo), Image(str(photo)), Image.from_path(str(photo))):
        assert (made.kind, made.media_type, made.path) == ("image", "image/png", photo)
        assert made.url is None
        assert made.data is None


def test_a_picture_is_made_of_bytes() -> None:
    for made in (Image(PNG), Image.from_bytes(PNG)):
        assert (made.media_type, made.data, made.path) == ("image/png", PNG, None)


def test_a_picture_is_made_of_a_url() -> None:
    for made in (Image(URL), Image.from_url(URL)):
        assert (made.media_type, made.url, made.data) == ("image/png", URL, None)


def test_a_data_url_is_decoded() -> None:
    for made in (Image(data_url(PNG)), Image.from_url(data_url(PNG))):
        assert (made.media_type, made.url, made.data) == ("image/png", None, PNG)
    assert Document("data:text/plain,a%20b").data == b"a b"


def test_a_picture_is_made_of_a_picture(photo: Path) -> None:
    assert Image(Image(photo)) == Image(photo)


def test_media_itself_is_abstract(photo: Path) -> None:
    with pytest.raises(TypeError, match="make an Image, an Audio or a Document"):
        Media(photo)


# What it is


@pytest.mark.parametrize(
    ("cls", "data", "media_type"),
    [
        (Image, PNG, "image/png"),
        (Image, b"\xff\xd8\xff\xe0", "image/jpeg"),
        (Image, b"GIF89a", "image/gif"),
        (Image, b"RIFF\x00\x00\x00\x00WEBP", "image/webp"),
        (Image, b"II*\x00", "image/tiff"),
        (Image, b"\x00\x00\x00\x20ftypavif", "image/avif"),
        (Audio, WAV, "audio/wav"),
        (Audio, b"ID3\x04", "audio/mpeg"),
        (Audio, b"OggS", "audio/ogg"),
        (Audio, b"fLaC", "audio/flac"),
        (Audio, b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"),
        (Document, b"%PDF-1.7", "application/pdf"),
        (Document, b"PK\x03\x04...word/document.xml", None),
        (Document, "größer".encode(), "text/plain"),
    ],
)
def test_first_bytes_tell_the_type(
    cls: type[Media], data: bytes, media_type: str | None
) -> None:
    made = cls(data)

    assert made.media_type == (media_type or made.media_type)
    assert made.media_type.partition("/")[0] in (cls.kind, "application", "text")


@pytest.mark.parametrize(
    ("cls", "name", "media_type"),
    [
        (Image, "a.JPG", "image/jpeg"),
        (Image, "a.svg", "image/svg+xml"),
        (Audio, "a.mp3", "audio/mpeg"),
        (Document, "a.pdf", "application/pdf"),
        (Document, "a.md", "text/markdown"),
        (Document, "a.csv", "text/csv"),
    ],
)
def test_a_name_tells_the_type(
    cls: type[Media], name: str, media_type: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"never read")

    assert cls(tmp_path / name).media_type == media_type
    assert cls(f"https://example.org/{name}?size=3#top").media_type == media_type


@pytest.mark.parametrize(
    ("cls", "media_type"),
    [(Image, "image/*"), (Audio, "audio/*"), (Document, "application/*")],
)
def test_a_url_need_not_tell_the_type(cls: type[Media], media_type: str) -> None:
    assert cls("https://example.org/12").media_type == media_type


def test_the_type_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(b"")

    assert Image(path, media_type="image/png").media_type == "image/png"
    assert Document(b"\x00\x01", media_type="application/x-own").data == b"\x00\x01"


# What is refused


@pytest.mark.parametrize(
    ("cls", "source", "problem"),
    [
        (Image, "missing.png", "'missing.png': is not a file that exists; pass the path"),
        (Image, "", "is not a file that exists"),
        (Image, "a\0b", "is not a file that exists"),
        (Image, "/", "is not a file that exists"),
        (Image, "x" * 5000 + "!", "is not a file that exists"),
        (
            Image,
            base64.b64encode(PNG).decode(),
            "looks like bare base64; pass the decoded b",
        ),
        (Image, "/9j/4AAQSkZJRgABAQ", "looks like bare base64.*a data URL.*or a path"),
        (
            Image,
            "ftp://example.org/a.png",
            "may be an http, https or data URL, and no other",
        ),
        (Image, "file:///etc/passwd", "may be an http, https or data URL, and no other"),
        (Image, "https:///a.png", "a URL without a host"),
        (Image, "https://exa mple.org", "with spaces in it"),
        (Image, "https://[", "not a well-formed URL"),
        (Image, "https://example.org/" + "a" * 10_000, "is longer than 8192 characters"),
        (Image, "data:image/png;base64", "a data URL without a comma"),
        (Image, "data:image/png;base64,*", "is not valid base64"),
        (Image, b"", "is empty"),
        (Image, b"\x00\x01\x02", "no known type; pass media_type='image/png'"),
        (Image, b"just text", "no known type"),
        (Image, WAV, "holds audio/wav, which is audio; use Audio"),
        (Audio, PNG, "holds image/png, which is an image; use Image"),
        (Image, "https://example.org/a.pdf", "which is a document; use Document"),
        (Image, data_url(b"x", "text/html"), "holds text/html, which is a document"),
        (Document, data_url(b"x", "video/mp4"), "video is not supported"),
        (Image, Audio(WAV), "which is audio; use Audio"),
        (Image, bytes(MAX_MEDIA_BYTES + 1), "is larger than 20971520 bytes; pass a path"),
        (Image, "data:image/png," + "a" * (MAX_MEDIA_BYTES + 1), "is longer than"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_source_of_no_use_is_refused(cls: type[Media], source: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        cls(source)

    assert len(str(caught.value)) < 400


def test_a_file_whose_name_tells_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(PNG)

    with pytest.raises(
        ValueError, match="does not tell its type; pass media_type='image/png'"
    ):
        Image(path)


def test_a_malformed_type_is_refused() -> None:
    with pytest.raises(
        ValueError, match="malformed media type; write one like 'image/png'"
    ):
        Image(PNG, media_type="png\r\nX: y")


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(TypeError, match="should be a path, bytes or a URL"):
        Image(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is not a URL; give one that starts with https"):
        Image.from_url("photo.png")


# As a value


def test_media_are_values(photo: Path) -> None:
    assert Image(photo) == Image(str(photo))
    assert hash(Image(PNG)) == hash(Image(PNG))
    assert Image(PNG) != Image(photo)
    assert Document(b"a") != Document(b"b")
    for made in (Image(photo), Image(PNG), Image(URL)):
        assert pickle.loads(pickle.dumps(made)) == made
        assert copy.deepcopy(made) == made


def test_media_cannot_be_changed() -> None:
    picture = Image(PNG)

    with pytest.raises(AttributeError):
        picture.media_type = "image/gif"
    with pytest.raises(AttributeError):
        del picture.media_type
    with pytest.raises(AttributeError):
        picture.more = 3


def test_showing_media_shows_neither_bytes_nor_secrets(photo: Path) -> None:
    assert repr(Image(PNG)) == "Image(<108 bytes>, media_type='image/png')"
    assert repr(Image(photo)) == f"Image({str(photo)!r}, media_type='image/png')"
    secret = Image("https://user:password@example.org/a.png?signature=hidden")
    assert repr(secret) == "Image('https://example.org/a.png', media_type='image/png')"


# Reading


@pytest.mark.anyio
async def test_files_and_bytes_can_be_read(photo: Path) -> None:
    assert await Image(photo).read() == PNG
    assert await Image(PNG).read() == PNG


@pytest.mark.anyio
async def test_reading_is_bounded(photo: Path) -> None:
    assert await Image(photo).read(max_bytes=len(PNG)) == PNG
    for made in (Image(photo), Image(PNG)):
        with pytest.raises(InputError, match="is larger than 10 bytes"):
            await made.read(max_bytes=10)


@pytest.mark.anyio
async def test_a_url_is_not_fetched() -> None:
    with pytest.raises(
        InputError, match=r"'https://example.org/photo.png' is a URL, and noth"
    ):
        await Image(URL + "?token=hidden").read()


@pytest.mark.anyio
async def test_a_file_that_has_gone_says_so(photo: Path) -> None:
    made = Image(photo)
    await anyio.Path(photo).unlink()

    with pytest.raises(FileNotFoundError, match=r"photo\.png"):
        await made.read()


@pytest.mark.anyio
async def test_a_data_url_is_made_of_what_is_read(photo: Path, tmp_path: Path) -> None:
    assert await Image(photo).to_data_url() == data_url(PNG)
    large = tmp_path / "large.txt"
    await anyio.Path(large).write_bytes(b"a" * 2_000_000)
    url = await Document(large).to_data_url()
    assert url == data_url(b"a" * 2_000_000, "text/plain")
    with pytest.raises(InputError, match="is larger than"):
        await Document(large).to_data_url(max_bytes=1000)


# In pydantic


def test_a_field_takes_all_that_the_constructor_takes(photo: Path) -> None:
    adapter = TypeAdapter(Image)

    for source in (photo, str(photo), PNG, URL, data_url(PNG), Image(PNG)):
        assert adapter.validate_python(source) == Image(source)


def test_a_field_for_any_media_finds_the_kind(photo: Path) -> None:
    adapter: TypeAdapter[Media] = TypeAdapter(Media)

    assert type(adapter.validate_python(photo)) is Image
    assert type(adapter.validate_python(WAV)) is Audio
    assert type(adapter.validate_python("https://example.org/a.pdf")) is Document
    assert type(adapter.validate_python(data_url(WAV, "audio/wav"))) is Audio
    with pytest.raises(ValidationError, match="is of no known type"):
        adapter.validate_python("https://example.org/12")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (3, "should be a path, bytes, an https URL or a data URL"),
        ("missing.png", "is not a file that exists"),
        (base64.b64encode(PNG).decode(), "looks like bare base64"),
        (Audio(WAV), "should be an image, got audio"),
        (
            {"kind": "audio", "media_type": "audio/wav", "url": URL},
            "should have kind 'image'",
        ),
        ({"kind": "image", "media_type": "image/png"}, "one of path, url and data"),
        ({"kind": "image", "url": URL}, "should have a media_type"),
        (
            {"kind": "image", "media_type": "image/png", "url": URL, "path": "a"},
            "one of path",
        ),
        ({"kind": "image", "media_type": "image/png", "data": "*"}, "not valid base64"),
        ({"kind": "image", "media_type": "audio/wav", "path": "a"}, "which is audio"),
        ({"kind": ["image"], "media_type": "image/png", "path": "a"}, "should have kind"),
    ],
)
def test_a_field_refuses_in_words_that_hold_no_value(value: Any, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Image).validate_python(value)

    (detail,) = caught.value.errors()
    assert problem in detail["msg"]
    assert str(value) not in detail["msg"]


def test_media_survive_json(photo: Path) -> None:
    adapter: TypeAdapter[list[Media]] = TypeAdapter(list[Media])
    media: list[Media] = [
        Image(photo),
        Image(URL),
        Image(PNG),
        Audio(WAV),
        Document(b"text"),
    ]

    written = adapter.dump_json(media)

    assert adapter.validate_json(written) == media
    assert json.loads(written)[0] == {
        "kind": "image",
        "media_type": "image/png",
        "path": str(photo),
    }
    assert adapter.dump_python(media) == media


def test_a_stored_value_stays_readable_when_its_file_has_gone(photo: Path) -> None:
    adapter = TypeAdapter(Image)
    written = adapter.dump_json(Image(photo))
    photo.unlink()

    assert adapter.validate_json(written).path == photo


def test_local_files_can_be_refused(photo: Path) -> None:
    adapter: TypeAdapter[Media] = TypeAdapter(Media)

    for value in (photo, str(photo), Image(photo), Image(photo).to_json(), "a.png"):
        with pytest.raises(
            ValidationError, match="a local file, which is not allowed here"
        ):
            adapter.validate_python(value, context=NO_LOCAL_FILES)
    for good in (URL, PNG, data_url(PNG), Image(PNG).to_json(), Image(URL)):
        made = adapter.validate_python(good, context=NO_LOCAL_FILES)
        assert made.path is None


def test_media_have_a_json_schema() -> None:
    schema = TypeAdapter(Image).json_schema()

    assert schema["title"] == "Image"
    assert schema["contentMediaType"] == "image/*"
    assert schema["properties"]["kind"]["enum"] == ["image"]
    assert set(schema["properties"]) == {"kind", "media_type", "path", "url", "data"}


def test_validating_reads_no_file(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    os.utime(path, ns=(0, 0))
    path.chmod(0)

    assert TypeAdapter(Image).validate_python(path).path == path
    assert path.stat().st_atime_ns == 0


def test_what_is_known_of_a_medium_can_be_kept_as_long_as_it_lives() -> None:
    known: weakref.WeakValueDictionary[str, Media] = weakref.WeakValueDictionary()
    medium = known["photo"] = Image(PNG)

    assert known["photo"] is medium
    del medium
    gc.collect()
    assert not known
