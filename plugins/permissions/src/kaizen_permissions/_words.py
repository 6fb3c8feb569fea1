"""Words of a shell: what is left of them when quotes and escapes are gone.

The grammar says where a word is; what it means is read here from its bytes, by the rules of
bash. So a place where the grammar and bash disagree does not go unseen: a word that would
end elsewhere for bash is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeAlias

__all__ = ["Decoder", "Node", "NotUnderstoodError", "Word", "look_alike", "named"]

Node: TypeAlias = Any  # a node of tree-sitter, which is imported only when it is needed

_PLAIN = re.compile(rb"[A-Za-z0-9_./,:+@%=^-]+")
_RAW = re.compile(rb"'[^']*'")
_NAME = re.compile(rb"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_PARAMETER = re.compile(
    rb"\$(?:[0-9@*#?$!-]|\{[0-9@*#?]\}|\{#[A-Za-z_][A-Za-z0-9_]*(?:\[[@*]\])?\}"
    rb"|\{[A-Za-z_][A-Za-z0-9_]*(?:\[[@*]\]|(?:%%?|##?|:?-|:?\+|\^\^?|,,?|//?)"
    rb"[A-Za-z0-9_./:,*?+ -]*)\})"
)
_NUMERIC = re.compile(rb"\$(?:[#?$!]|\{[#?]\}|\{#[A-Za-z_][A-Za-z0-9_]*(?:\[[@*]\])?\})")
_ARITHMETIC = re.compile(rb"\$\(\([0-9\s+*/%()<>=!&|^~?:-]*\)\)")
_BRACES = re.compile(r"([^{}]*)\{([^{}]*)\}(.*)", re.DOTALL)
_RANGE = re.compile(r"(-?(?:0|[1-9][0-9]{0,5}))\.\.(-?(?:0|[1-9][0-9]{0,5}))")
_SAFE_VALUE = re.compile(r"[A-Za-z0-9_./,:+@%=-]+")
_BRACED = re.compile(rb"\$\{#?([A-Za-z_][A-Za-z0-9_]*)")
_OPEN = re.compile(  # what is known to hold no secret
    r"PATH|HOME|(OLD)?PWD|USER|LOGNAME|SHELL|LANG|LC_[A-Z]+|TERM|TMPDIR|HOSTNAME|E?UID|PPID"
    r"|RANDOM|SECONDS|LINENO|COLUMNS|LINES|REPLY|IFS|BASH_VERSION|BASHPID|SHLVL|OSTYPE"
    r"|HOSTTYPE|MACHTYPE|PIPESTATUS|EPOCHSECONDS|VIRTUAL_ENV|CONDA_PREFIX|EDITOR|VISUAL|CI|OPTARG"
    r"|OPTIND|TZ|XDG_[A-Z_]+|GOPATH|JAVA_HOME"
)
_MOST_WORDS = 64
_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
    "E": "\x1b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "?": "?",
}
_CODED = re.compile(
    r"\\(?:([abeEfnrtv\\'\"?])|([0-7]{1,3})|x([0-9A-Fa-f]{1,2})"
    r"|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8}))"
)


def named(names: str) -> frozenset[str]:
    """Return names that are separated by blanks."""
    return frozenset(names.split())


class NotUnderstoodError(Exception):
    """A part of a command cannot be understood; the message says which, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word, or what stands for words that are not known before the command runs.

    Attributes:
        text: The word; as it was written, from where it is not known on.
        known: Whether the word is `text`.
        several: Whether it may become several words, or none.
        pattern: Where in `text` the first character stands that matches names of files;
            -1 if there is none.
        piped: It is the name of a pipe to another program.
        bare: Nothing in it was quoted.
    """

    text: str
    known: bool = True
    several: bool = False
    pattern: int = -1
    piped: bool = False
    bare: bool = True

    @property
    def plain(self) -> bool:
        """Whether it is what it says, whatever files there are."""
        return self.known and self.pattern < 0 and not self.piped


@dataclass(slots=True)
class Decoder:
    """Reads words of one command.

    Attributes:
        source: The command, in UTF-8.
        values: What the variables are that the command has set, as far as that is known.
        nested: Takes a substitution, notes what it runs, and returns its output if that is
            known.
        foreign: Takes the name of a variable that the command has not set itself.
    """

    source: bytes
    values: Mapping[str, str | None]
    nested: Callable[[Node], str | None]
    foreign: Callable[[str], None]

    def words(self, node: Node) -> list[Word]:
        """Return the word at a node, or several if it is one with braces."""
        raw = self.source[node.start_byte : node.end_byte]
        if _PLAIN.fullmatch(raw):
            return [Word(text=raw.decode())]
        if _RAW.fullmatch(raw):
            return [Word(text=_checked(raw[1:-1].decode()), bare=False)]
        reading = _Reading(self, node.end_byte, _expansions(node))
        word = reading.word(node.start_byte)
        return _braces(word) if reading.braces else [word]

    def word(self, node: Node) -> Word:
        """Return the one word at a node."""
        found = self.words(node)
        if len(found) != 1:
            raise NotUnderstoodError("braces stand where one word belongs")
        return found[0]

    def document(self, start: int, end: int, node: Node) -> str | None:
        """Return a here-document whose end is not quoted, if all of it is known."""
        reading = _Reading(self, end, _expansions(node))
        return reading.document(start)


class _Reading:
    """One word being read."""

    def __init__(self, decoder: Decoder, end: int, expansions: Mapping[int, Node]) -> None:
        self._decoder = decoder
        self._source = decoder.source
        self._start = 0
        self._end = end
        self._expansions = expansions
        self._out: list[str] = []
        self._length = 0
        self._known = True
        self._several = False
        self._pattern = -1
        self._piped = False
        self._bare = True
        self.braces = False

    def word(self, at: int) -> Word:
        start = self._start = at
        source, end = self._source, self._end
        while at < end:
            char = source[at : at + 1]
            if char == b"'":
                at = self._quoted(at)
            elif char == b'"':
                at = self._double(at + 1, b'"')
            elif char == b"\\":
                at = self._escaped(at)
            elif char in b"$`<>":
                at = self._special(at)
            else:
                self._bare_char(char, first=at == start)
                at += 1
        text = "".join(self._out)
        return Word(
            text=_checked(text) if self._known else text,
            known=self._known,
            several=self._several,
            pattern=self._pattern,
            piped=self._piped,
            bare=self._bare,
        )

    def document(self, at: int) -> str | None:
        self._double(at, b"")
        return "".join(self._out) if self._known else None

    def _add(self, text: str) -> None:
        self._out.append(text)
        self._length += len(text)

    def _bare_char(self, char: bytes, *, first: bool) -> None:
        if char >= b"\x80":
            raise NotUnderstoodError("a letter that is not ASCII stands outside quotes")
        if char in b" \t\n;&|()":
            raise NotUnderstoodError("a word ends where bash would not end it")
        if char == b"#" and first:
            raise NotUnderstoodError("a comment stands where a word belongs")
        if char in b"*?[" and self._pattern < 0:
            self._pattern = self._length
        if char == b"{":
            self.braces = True
        self._add(char.decode())

    def _check_continued(self) -> None:
        """Refuse a line that goes on where the name of a variable might."""
        if re.search(rb"[$`]", self._source[self._start : self._end]):
            raise NotUnderstoodError("a line ends within a word")

    def _quoted(self, at: int) -> int:
        closed = self._source.find(b"'", at + 1, self._end)
        if closed < 0:
            raise NotUnderstoodError("a quote is not closed")
        self._bare = False
        self._add(self._source[at + 1 : closed].decode())
        return closed + 1

    def _escaped(self, at: int) -> int:
        following = self._source[at + 1 : at + 2]
        if at + 1 >= self._end or following >= b"\x80":
            raise NotUnderstoodError("a backslash has nothing to stand before")
        if following == b"\n":
            self._check_continued()
            return at + 2
        self._bare = False
        self._add(following.decode())
        return at + 2

    def _double(self, at: int, close: bytes) -> int:
        """Read text in double quotes, or a document, up to what closes it."""
        source, end = self._source, self._end
        begin = at
        self._bare = False
        while at < end:
            char = source[at : at + 1]
            if char == close:
                self._add(source[begin:at].decode())
                return at + 1
            if char not in b"\\$`":
                at += 1
                continue
            self._add(source[begin:at].decode())
            if char == b"\\":
                at = self._escaped_in_double(at, close)
            else:
                at = self._expanded(at, quoted=True)
            begin = at
        if close:
            raise NotUnderstoodError("a quote is not closed")
        self._add(source[begin:at].decode())
        return at

    def _escaped_in_double(self, at: int, close: bytes) -> int:
        following = self._source[at + 1 : at + 2]
        if following == b"\n":
            self._check_continued()
            return at + 2
        if following and (following in b"\\$`" or following == close):
            self._add(following.decode())
            return at + 2
        self._add("\\")
        return at + 1

    def _special(self, at: int) -> int:
        pair = self._source[at : at + 2]
        if pair == b"$'":
            return self._coded(at)
        if pair == b'$"':
            raise NotUnderstoodError("a text is translated into the user's language")
        if pair in (b"<(", b">("):
            node = self._node(at, "process_substitution")
            self._decoder.nested(node)
            self._piped = True
            self._add("/dev/fd/63")
            return int(node.end_byte)
        if pair[:1] in b"<>":
            raise NotUnderstoodError("a word ends where bash would not end it")
        return self._expanded(at, quoted=False)

    def _coded(self, at: int) -> int:
        """Read `$'...'`, in which characters are given by their numbers."""
        begin = at = at + 2
        while at < self._end and self._source[at : at + 1] != b"'":
            at += 2 if self._source[at : at + 1] == b"\\" else 1
        if at >= self._end:
            raise NotUnderstoodError("a quote is not closed")
        self._bare = False
        text = self._source[begin:at].decode()
        decoded = _CODED.sub(_decoded, text)
        if "\\" in _CODED.sub("", text):
            raise NotUnderstoodError("an escape is not known")
        self._add(decoded)
        return at + 1

    def _expanded(self, at: int, *, quoted: bool) -> int:
        """Read what begins with `$` or a backtick."""
        source, end = self._source, self._end
        if (found := _NAME.match(source, at, end)) is not None:
            name = (found[1] or found[2]).decode()
            self._check_own(name)
            self._value(self._decoder.values.get(name), found[0].decode(), quoted)
            return found.end()
        if (found := _ARITHMETIC.match(source, at, end)) is not None:
            self._value(None, found[0].decode(), quoted=True)
            return found.end()
        if source[at : at + 2] == b"$(" or source[at : at + 1] == b"`":
            if source[at : at + 3] == b"$((":
                raise NotUnderstoodError(
                    "arithmetic depends on variables, or runs something"
                )
            node = self._node(at, "command_substitution")
            written = source[at : node.end_byte].decode()
            self._value(self._decoder.nested(node), written, quoted)
            return int(node.end_byte)
        if (found := _PARAMETER.match(source, at, end)) is not None:
            if (inner := _BRACED.match(found[0])) is not None:
                self._check_own(inner[1].decode())
            alone = quoted and not re.search(rb"[@*]", found[0])
            numeric = _NUMERIC.fullmatch(found[0]) is not None
            self._value(None, found[0].decode(), quoted=alone or numeric)
            return found.end()
        following = source[at + 1 : at + 2] if at + 1 < end else b""
        if following and following in b"{[(":
            raise NotUnderstoodError("an expansion may run something")
        self._add("$")
        return at + 1

    def _check_own(self, name: str) -> None:
        """Note a variable of the user's environment, in which there may be secrets."""
        if name not in self._decoder.values and _OPEN.fullmatch(name) is None:
            self._decoder.foreign(name)

    def _value(self, value: str | None, written: str, quoted: bool) -> None:
        if value is not None and (quoted or _SAFE_VALUE.fullmatch(value)):
            self._add(value)
            self._bare = False
            return
        self._known = False
        self._several = self._several or not quoted
        self._add(written)

    def _node(self, at: int, kind: str) -> Node:
        node = self._expansions.get(at)
        if node is None or node.type != kind or node.end_byte > self._end:
            raise NotUnderstoodError("a substitution cannot be found")
        return node


def _expansions(node: Node) -> dict[int, Node]:
    """Return the substitutions in a word, by where they begin, but none inside others."""
    found: dict[int, Node] = {}
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if each.type in ("command_substitution", "process_substitution"):
            found[each.start_byte] = each
        else:
            waiting.extend(each.children)
    return found


def _decoded(match: re.Match[str]) -> str:
    named, octal, byte, short, long = match.groups()
    if named is not None:
        return _ESCAPES[named]
    number = int(octal, 8) & 0xFF if octal is not None else int(byte or short or long, 16)
    if number == 0 or number > 0x10FFFF or 0xD800 <= number < 0xE000:
        raise NotUnderstoodError("an escape stands for no character")
    if number > 0x7F and (octal is not None or byte is not None):
        raise NotUnderstoodError("an escape stands for a part of a character")
    return chr(number)


def _braces(word: Word) -> list[Word]:
    """Return what a word with braces becomes."""
    if not word.bare or not word.known:
        if "," in word.text or ".." in word.text:
            raise NotUnderstoodError("braces stand beside quotes or variables")
        return [word]
    if word.pattern >= 0 and ("," in word.text or ".." in word.text):
        raise NotUnderstoodError("braces stand in a pattern")
    texts = [""]
    rest = word.text
    while (match := _BRACES.fullmatch(rest)) is not None:
        before, inside, rest = match.groups()
        texts = [text + before + one for text in texts for one in _alternatives(inside)]
        if len(texts) > _MOST_WORDS:
            raise NotUnderstoodError("braces stand for too many words")
    if "{" in rest and ("," in rest or ".." in rest):
        raise NotUnderstoodError("braces stand in braces")
    if len(texts) == 1:
        return [replace(word, text=texts[0] + rest)]
    return [Word(text=text + rest) for text in texts if text + rest]


def _alternatives(inside: str) -> list[str]:
    if "," in inside:
        return inside.split(",")
    if (bounds := _RANGE.fullmatch(inside)) is not None:
        first, last = int(bounds[1]), int(bounds[2])
        step = 1 if last >= first else -1
        numbers = range(first, last + step, step)
        return [str(number) for number in islice(numbers, _MOST_WORDS + 1)]
    if ".." in inside:
        raise NotUnderstoodError("braces stand for a range that is not understood")
    return ["{" + inside + "}"]


def _checked(text: str) -> str:
    """Return the text of a word, unless a reader could take it for another."""
    if text.isascii():
        if not text.isprintable() and re.search(r"[^\t\n\x20-\x7e]", text):
            raise NotUnderstoodError("a word holds a control character")
        return text
    if (problem := look_alike(text)) is not None:
        raise NotUnderstoodError(problem)
    return text


def look_alike(text: str) -> str | None:
    """Say why a text may not be what it looks like, or return `None`.

    Letters of any language are fine where they stand among their own; one Cyrillic letter
    in a Latin word is not, and neither are spaces and signs that cannot be seen.
    """
    latin = other = False
    for char in text:
        if char.isascii():
            if not char.isprintable() and char not in "\t\n":
                return "a word holds a control character"
            letter = char.isalpha()
            latin = (latin or letter) if letter else False
            other = other if letter else False
        elif unicodedata.category(char)[0] in "ZC":
            return "a character cannot be seen"
        elif _ASCII_ALIKE.search(unicodedata.normalize("NFKC", char)):
            return "a character is a look-alike of another"
        elif char.isalpha():
            name = unicodedata.name(char, "")
            latin = latin or name.startswith("LATIN")
            other = other or name.startswith(_ALIKE)
        if latin and other:
            return "letters that look alike are mixed in one word"
    return None


_ASCII_ALIKE = re.compile(r"[A-Za-z0-9/\\;|&$`<>~*-]")
_ALIKE = ("CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "DESERET")
