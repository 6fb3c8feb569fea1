"""Reads transcriptions."""

from __future__ import annotations

from typing import Any

from kaizen.media import Audio
from kaizen.ports import Transcript

__all__ = ["file_of", "transcript"]

_SUFFIXES = {
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/opus": "opus",
    "audio/wav": "wav",
    "audio/webm": "webm",
}
# Whisper writes the names of languages.
_CODES = """
afrikaans=af albanian=sq amharic=am arabic=ar armenian=hy assamese=as azerbaijani=az
bashkir=ba basque=eu belarusian=be bengali=bn bosnian=bs breton=br bulgarian=bg burmese=my
cantonese=yue castilian=es catalan=ca chinese=zh croatian=hr czech=cs danish=da dutch=nl
english=en estonian=et faroese=fo finnish=fi flemish=nl french=fr galician=gl georgian=ka
german=de greek=el gujarati=gu haitian=ht hausa=ha hawaiian=haw hebrew=he hindi=hi
hungarian=hu icelandic=is indonesian=id irish=ga italian=it japanese=ja javanese=jw
kannada=kn kazakh=kk khmer=km korean=ko lao=lo latin=la latvian=lv letzeburgesch=lb
lingala=ln lithuanian=lt luxembourgish=lb macedonian=mk malagasy=mg malay=ms malayalam=ml
maltese=mt mandarin=zh maori=mi marathi=mr moldavian=ro mongolian=mn myanmar=my nepali=ne
norwegian=no nynorsk=nn occitan=oc panjabi=pa pashto=ps persian=fa polish=pl portuguese=pt
punjabi=pa pushto=ps romanian=ro russian=ru sanskrit=sa serbian=sr shona=sn sindhi=sd
sinhala=si sinhalese=si slovak=sk slovenian=sl somali=so spanish=es sundanese=su swahili=sw
swedish=sv tagalog=tl tajik=tg tamil=ta tatar=tt telugu=te thai=th tibetan=bo turkish=tr
turkmen=tk ukrainian=uk urdu=ur uzbek=uz valencian=ca vietnamese=vi welsh=cy yiddish=yi
yoruba=yo
"""


def file_of(audio: Audio, data: bytes) -> tuple[str, bytes, str]:
    """Return a recording as it is uploaded: a name, which tells its format, and bytes."""
    suffix = _SUFFIXES.get(audio.media_type, "mp3")
    return f"audio.{suffix}", data, audio.media_type


def transcript(said: Any) -> Transcript | None:
    """Return what a transcription says, or `None` if it is none."""
    text = getattr(said, "text", None)
    if not isinstance(text, str):
        return None
    language = getattr(said, "language", None)
    duration = getattr(said, "duration", None)
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
