"""What the names of fields say they are for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kaizen_offline._quotes import Citation

__all__ = [
    "CONFIDENCE",
    "FOUND",
    "GENERIC",
    "MAIN",
    "NAMED",
    "PARTS",
    "PROPER_NAME",
    "REASONS",
    "SOURCES",
    "TYPED",
    "UNKNOWN_CHOICES",
]

UNKNOWN_CHOICES = frozenset(
    [
        *("unknown", "unclear", "undetermined", "unsure", "uncertain", "none", "other"),
        "n/a",
        "na",
    ]
)
MAIN = (
    *("answer", "response", "reply", "summary", "result", "output", "text", "explanation"),
    *("description", "conclusion", "message", "content", "report", "analysis"),
)
CONFIDENCE = re.compile(r"(?:.*_)?(?:confidence|certainty|probability|score|relevance)")
SOURCES = re.compile(
    r"(?:.*_)?(?:source|citation|evidence|reference|quote|excerpt|passage)s?"
)
REASONS = re.compile(r"(?:.*_)?(?:reasoning|rationale|justification|thoughts?|steps|how)")
FOUND = re.compile(r"(?:(?:is|was)_)?(?:found|known|answered|answerable)|has_answer")
NAMED = re.compile(r"(?:.*_)?(?:name|person|who|author)")
PROPER_NAME = r"\b[A-Z][\w'’-]+(?: (?:[a-z]{1,3} )?[A-Z][\w'’-]+)+"
GENERIC = re.compile(
    r"(?:key_)?(?:items?|answers?|list|results?|names?|points?|findings?|facts|values?|"
    r"is_true|verdict|yes)"
)
PARTS: tuple[tuple[re.Pattern[str], Callable[[Citation], Any]], ...] = (
    (
        re.compile(r"(?:file|path|filename|file_path|source|document|name|location)"),
        lambda c: c.path,
    ),
    (re.compile(r"(?:(?:start_|end_)?line(?:_number|_no)?|lineno)"), lambda c: c.line),
    (
        re.compile(
            r"(?:quote|text|excerpt|snippet|passage|content|sentence|evidence|claim)"
        ),
        lambda c: c.quote,
    ),
    (re.compile(r"(?:title|heading|section)"), lambda c: c.heading),
    (CONFIDENCE, lambda c: c.score),
)
TYPED = {
    "email": r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+",
    "url": r"https?://[^\s<>\"')\]]+",
    "uri": r"https?://[^\s<>\"')\]]+",
    "phone": r"\+?\d[\d ()/-]{5,30}\d",
    "ipv4": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    "uuid": r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b",
}
