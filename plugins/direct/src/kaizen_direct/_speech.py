"""Transcriptions: the form that is sent, and what comes back."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from kaizen.media import Audio
from kaizen.ports import Transcript

from kaizen_direct._wire import Failed, Unreadable

__all__ = ["form", "transcript"]

_SUFFIXES = {
    "audio/aac": "aac",
    "audio/aiff": "aiff",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/opus": "opus",
    "audio/wav": "wav",
    "audio/webm": "webm",
}
# Whisper says the language's English name; what is left out has the same first two letters.
_CODES = """
albanian=sq amharic=am armenian=hy basque=eu bashkir=ba belarusian=be bosnian=bs
breton=br bulgarian=bg burmese=my cantonese=yue castilian=es catalan=ca chinese=zh
croatian=hr czech=cs danish=da dutch=nl estonian=et faroese=fo flemish=nl galician=gl
georgian=ka german=de greek=el haitian=ht hawaiian=haw icelandic=is indonesian=id
irish=ga javanese=jw kazakh=kk khmer=km latvian=lv letzeburgesch=lb lithuanian=lt
macedonian=mk malagasy=mg malay=ms malayalam=ml maltese=mt mandarin=zh maori=mi
marathi=mr moldavian=ro moldovan=ro mongolian=mn norwegian=no nynorsk=nn panjabi=pa
persian=fa polish=pl portuguese=pt punjabi=pa pushto=ps pashto=ps sanskrit=sa
serbian=sr shona=sn sindhi=sd sinhala=si sinhalese=si slovak=sk slovenian=sl
spanish=es sundanese=su swahili=sw swedish=sv tagalog=tl tajik=tg tatar=tt tibetan=bo
turkish=tr turkmen=tk ukrainian=uk valencian=ca vietnamese=vi welsh=cy yiddish=yi
"""


def form(audio: Audio, data: bytes, model: str) -> tuple[str, bytes]:
    """Return the form of a request to transcribe, and its content type.

    Whisper tells language and duration if it is asked to; OpenAI's later models refuse
    that question.
    """
    plain = "transcribe" in model
    boundary = uuid4().hex
    suffix = _SUFFIXES.get(audio.media_type, "mp3")
    parts = [
        _field(boundary, "model", model),
        _field(boundary, "response_format", "json" if plain else "verbose_json"),
        (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
            f'filename="audio.{suffix}"\r\nContent-Type: {audio.media_type}\r\n\r\n'
        ).encode(),
        data,
        f"\r\n--{boundary}--\r\n".encode(),
    ]
    return f"multipart/form-data; boundary={boundary}", b"".join(parts)


def _field(boundary: str, name: str, value: str) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return f"{head}{value}\r\n".encode()


def transcript(said: Any) -> Transcript:
    """Return what a transcription says.

    Raises:
        Unreadable: It is none.
        Failed: It says why there is none.
    """
    if not isinstance(said, dict):
        raise Unreadable
    if said.get("error"):
        raise Failed(said["error"])
    text, language = said.get("text"), said.get("language")
    if not isinstance(text, str):
        raise Unreadable
    duration = said.get("duration")
    if duration is None and isinstance(said.get("usage"), dict):
        duration = said["usage"].get("seconds")
    try:
        seconds = None if duration is None else float(duration)
    except (TypeError, ValueError):
        seconds = None
    code = _code(language) if isinstance(language, str) else ""
    return Transcript(text=text, language=code, duration_s=seconds)


def _code(language: str) -> str:
    name = language.strip().lower()
    if len(name) <= 3:
        return name
    codes = dict(pair.split("=") for pair in _CODES.split())
    return codes.get(name, name[:2])
