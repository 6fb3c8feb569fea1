"""Judges one program with its words: what it wraps, what it only reads, what it writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from posixpath import basename, isabs, join, normpath
from typing import TYPE_CHECKING

from kaizen_permissions._git import git_only_reads
from kaizen_permissions._judged import Invocation
from kaizen_permissions._readers import only_reads
from kaizen_permissions._special import special_words
from kaizen_permissions._state import Outcome, Redirects, State
from kaizen_permissions._words import NotUnderstoodError, Word, named
from kaizen_permissions._wrappers import (
    SHELLS,
    UNSUPPORTED,
    WRAPPERS,
    Wrapper,
    harmless_variable,
    interpreter,
    strip,
)

if TYPE_CHECKING:
    from kaizen_permissions._invocations import Walk

__all__ = ["Programs"]

_MAX_WRAPPERS = 12
_SYSTEM = re.compile(r"(/usr)?(/local)?/s?bin/[^/]+|/opt/homebrew/bin/[^/]+")
_LOADERS = re.compile(r"ld-(linux|musl).*|ld\.so.*")
_NOT_EVERY_SHELL = re.compile(
    r"\$'|\(\(|&>|\[\[|\{[^}\n]*(,|\.\.)|<\(|>\(|<<<|\bfunction\b"
)
_WRITING = named(
    "tee touch mkdir rm rmdir truncate shred unlink chmod chown chgrp mv cp ln install"
)
_LISTING = named("grep egrep fgrep rg head tail sort uniq")
_SHELL_OPTIONS = re.compile(r"[-+](c|[euxfbhv]+c?)")
_SET_OPTIONS = re.compile(r"[-+][euxfCv]+|[-+][euxfCv]*o")
_SET_NAMES = named("errexit nounset xtrace pipefail noglob noclobber verbose")
_NAME = re.compile(r"[a-z_][A-Za-z0-9_]*|[A-Z][A-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class _Call:
    """One program with all that goes with it."""

    words: Sequence[Word]
    environment: Mapping[str, str]
    redirects: Redirects
    state: State
    wrappers: tuple[str, ...] = ()
    path: str = ""
    written: tuple[Word, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.words[0].text


class Programs:
    """What the programs of one command do."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._places = walk.places

    def run(
        self,
        words: Sequence[Word],
        assigned: Mapping[str, str | None],
        redirects: Redirects,
        state: State,
    ) -> Outcome:
        """Judge a command by its words, with the variables that are set for it."""
        environment: dict[str, str] = {}
        for name, value in assigned.items():
            if name == "IFS" and words[0].text == "read":
                continue
            self.check_variable(name, value)
            environment[name] = value or ""
        return self._run(_Call(words, environment, redirects, state))

    def check_variable(self, name: str, value: str | None) -> None:
        """Note a variable of a program's environment that may change what runs."""
        if not harmless_variable(name, value):
            self._walk.problem(f"the variable {name!r} may change what runs")

    def redirect_only(
        self, writes: Sequence[Word], reads: Sequence[Word], state: State
    ) -> None:
        """Note what the shell reads and writes where it runs no program itself."""
        if not writes and not reads:
            return
        redirects = Redirects(writes=list(writes), reads=list(reads))
        self._note(_Call([Word(text=":")], {}, redirects, state), harmless=True)

    def fed(self, invocations: Sequence[Invocation], before: str | None) -> str | None:
        """Return what a part of a pipeline prints, if it is names of files in the roots.

        They begin with a folder (`"path"`), or as they like (`"name"`).
        """
        if len(invocations) != 1 or not invocations[0].only_reads:
            return None
        argv = invocations[0].argv
        if argv[0] == "find" and not {"-printf", "-ls", "-exec"} & set(argv):
            return "path" if len(argv) > 1 and argv[1][0] not in "-(!" else None
        if argv[:2] == ("git", "ls-files") or argv[:3] == ("git", "diff", "--name-only"):
            return None if any(word.startswith("--f") for word in argv) else "name"
        if argv[0] in ("rg", "grep") and argv[1:2] in (("-l",), ("--files",), ("-rl",)):
            return "name"
        return before if argv[0] in _LISTING and not invocations[0].reads else None

    def _run(self, call: _Call) -> Outcome:
        if len(call.wrappers) > _MAX_WRAPPERS:
            raise NotUnderstoodError("it is wrapped too often")
        call, system = self._named(call)
        name = call.name
        if name in UNSUPPORTED:
            self._walk.problem(f"{name!r} {UNSUPPORTED[name]}")
            return self._plain(call)
        if _LOADERS.fullmatch(name):
            return self._wrapped(call, Wrapper(alone=True))
        if (wrapper := WRAPPERS.get(name)) is not None and _is_wrapping(
            wrapper, call.words
        ):
            return self._wrapped(call, wrapper if system else replace(wrapper, alone=True))
        if name in SHELLS:
            return self._shell(call)
        special = _SPECIAL.get(name)
        if special is not None and (system or name in _RUNS_OTHERS):
            return special(self, call)
        return self._plain(call)

    def _named(self, call: _Call) -> tuple[_Call, bool]:
        """Return a call with the program's bare name, and whether it is the system's."""
        first = call.words[0]
        if not first.plain or not first.text or not first.text.isascii():
            raise NotUnderstoodError("the program that would run is not known")
        if first.text == ".":
            return replace(call, words=[Word(text="source"), *call.words[1:]]), True
        name = basename(first.text)
        if not name or name in (".", ".."):
            raise NotUnderstoodError("the program that would run is not known")
        if name == first.text:
            if name.startswith("~"):
                raise NotUnderstoodError("the program that would run is not known")
            return call, True
        path = first.text
        if not isabs(path) and call.state.places != (self._places.start,):
            path = normpath(join(call.state.places[0], path))
        words = [replace(first, text=name), *call.words[1:]]
        return replace(call, words=words, path=path), _SYSTEM.fullmatch(path) is not None

    # One program.

    def _plain(self, call: _Call) -> Outcome:
        inside = self._inside(call.state)
        judge = git_only_reads if call.name == "git" else only_reads
        harmless, reads = judge(call.words, inside)
        if call.path and not _SYSTEM.fullmatch(call.path):
            harmless, reads = False, []
        if not harmless:
            self._check_known(call)
        self._note(call, harmless=harmless, reads=reads)
        return Outcome.of(call.state)

    def _check_known(self, call: _Call) -> None:
        """Note what a program would be given that is not known."""
        for word in call.words[1:]:
            if not word.known or word.several:
                self._walk.problem(
                    f"{word.text!r} is not known before {call.name!r} would run"
                )
            elif word.pattern == 0 or (word.pattern > 0 and word.text.startswith("-")):
                self._walk.problem(f"{word.text!r} may stand for an option")
        if (language := interpreter(call.name)) is not None:
            self._check_script(call, language)

    def _check_script(self, call: _Call, language: tuple[str, str]) -> None:
        """Note an interpreter that would take its program from its input."""
        code, valued = language
        for word in call.words[1:]:
            if word.text == "-" or not word.text.startswith("-"):
                break
            if any(letter in code + valued for letter in word.text[1:]):
                return
            if word.text in ("--version", "--help", "-V"):
                return
        else:
            word = Word(text="-")
        if word.text == "-" or word.piped or word.text.startswith("/dev/"):
            self._walk.problem(f"{call.name!r} would run what it is given as input")

    def _note(
        self,
        call: _Call,
        *,
        harmless: bool,
        reads: Sequence[str] = (),
        words: Sequence[Word] | None = None,
    ) -> None:
        """Add a program to what would run."""
        words = call.words if words is None else words
        places = call.state.places
        argv = tuple(word.text for word in words)
        redirected = [*call.redirects.writes, *call.written]
        inside = self._inside(call.state)
        leaves = not all(map(inside, (*redirected, *call.redirects.reads))) or any(
            map(self._places.is_protected, redirected)
        )
        shown = [
            path
            for word in redirected
            if not _is_sink(word)
            for path in self._places.shown(word, places)
        ]
        names = [*call.redirects.reads, *(Word(text=text) for text in reads)]
        read = [path for word in names for path in self._places.shown(word, places)]
        self._walk.invocations.append(
            Invocation(
                argv=argv,
                path=call.path,
                wrappers=call.wrappers,
                environment=call.environment,
                writes=(*shown, *self._written(words, places)),
                reads=tuple(read),
                redirected=tuple(shown),
                harmless=harmless,
                leaves=leaves,
                special=frozenset() if harmless else self._special(words, places),
                unknown=frozenset(
                    at for at, word in enumerate(words) if not word.known or word.several
                ),
            )
        )

    def _special(self, words: Sequence[Word], places: Sequence[str]) -> frozenset[int]:
        argv = [word.text for word in words]
        out = {
            at
            for at, word in enumerate(words)
            if at and (word.piped or not word.known or self._leads_out(word, places))
        }
        return special_words(argv[0], argv) | out

    def _leads_out(self, word: Word, places: Sequence[str]) -> bool:
        if word.pattern >= 0 and not self._places.inside(word, places):
            return True
        return self._places.leads_out(word.text, places)

    def _written(self, words: Sequence[Word], places: Sequence[str]) -> list[str]:
        name = words[0].text
        if name == "dd":
            texts = [w.text[3:] for w in words if w.text.startswith("of=")]
        elif name in _WRITING or (name == "sed" and any(w.text[:2] == "-i" for w in words)):
            texts = [w.text for w in words[1:] if not w.text.startswith("-")]
        else:
            return []
        return [
            path for each in texts for path in self._places.shown(Word(text=each), places)
        ]

    def _inside(self, state: State) -> Callable[[Word], bool]:
        return lambda word: self._places.inside(word, state.places)

    # Programs that run others.

    def _wrapped(self, call: _Call, wrapper: Wrapper) -> Outcome:
        if call.name == "command" and call.words[1:2] in _LOOKS_UP:
            return self._looked_up(call)
        stripped = strip(wrapper, call.words)
        for name, value in stripped.assigned.items():
            self.check_variable(name, value)
        state = call.state
        options = stripped.options
        for option in ("-C", "--chdir", "-D"):
            if option in options and call.name in ("env", "sudo"):
                state = replace(
                    state, places=self._places.entered(options[option], state.places)
                )
        if call.name == "env" and {"-u", "--unset"} & set(options):
            self._walk.problem("a variable is taken away, which may change what runs")
        if wrapper.alone:
            self._check_words(call)
            self._note(call, harmless=False)
        inner = replace(
            call,
            words=stripped.words,
            environment={**call.environment, **stripped.assigned},
            state=state,
            wrappers=(*call.wrappers, call.name),
            path="",
            written=(*call.written, *(options[o] for o in wrapper.writes if o in options)),
        )
        for option in ("-S", "--split-string"):
            if option in options and call.name == "env":
                inner = replace(inner, words=[*_split(options[option]), *inner.words])
        return self._inner(call, inner, wrapper, options)

    def _inner(
        self, call: _Call, inner: _Call, wrapper: Wrapper, options: Mapping[str, Word]
    ) -> Outcome:
        words = inner.words
        if call.name == "flock" and "-c" in options:
            return self._script_of([options["-c"]], inner)
        if call.name == "flock" and words and words[0].text == "-c":
            return self._script_of(words[1:], inner)
        if wrapper.script and "-x" not in options and words:
            return self._script_of(words, inner)
        if not words:
            if not wrapper.alone:
                self._note(call, harmless=call.name in ("env", "exec", "command", "time"))
            return Outcome.of(call.state)
        outcome = self._run(inner)
        return Outcome.of(call.state) if inner.state != call.state else outcome

    def _looked_up(self, call: _Call) -> Outcome:
        """`command -v` says where a program is, and runs nothing."""
        self._note(call, harmless=True)
        return Outcome.of(call.state)

    def _check_words(self, call: _Call) -> None:
        if any(not word.known for word in call.words):
            self._walk.problem(f"a word of {call.name!r} is not known before it would run")

    def _script_of(self, words: Sequence[Word], call: _Call) -> Outcome:
        """Walk what a program gives to a shell."""
        if not all(word.plain for word in words):
            raise NotUnderstoodError("a script is not known before it would run")
        text = " ".join(word.text for word in words)
        self._nested(text, call, State({}, call.state.places))
        self._note_redirects(call)
        return Outcome.of(call.state)

    def _nested(self, text: str, call: _Call, state: State) -> State:
        """Walk a script, whose programs are wrapped in what this call is."""
        before = len(self._walk.invocations)
        after = self._walk.script(text, state)
        wrappers = (*call.wrappers, call.name) if call.name else call.wrappers
        self._walk.invocations[before:] = [
            replace(
                each,
                wrappers=(*wrappers, *each.wrappers),
                environment={**call.environment, **each.environment},
            )
            for each in self._walk.invocations[before:]
        ]
        return after

    def _shell(self, call: _Call) -> Outcome:
        options = [word.text for word in call.words[1:]]
        if options in (["--version"], ["--help"]):
            return self._plain(call)
        at = 1
        runs = False
        while at < len(call.words) and call.words[at].text[:1] in "-+" and not runs:
            word = call.words[at]
            if not word.plain or not _SHELL_OPTIONS.fullmatch(word.text):
                self._note(call, harmless=False)
                raise NotUnderstoodError(
                    f"the option {word.text!r} of a shell is not known"
                )
            runs = word.text.endswith("c")
            at += 1
        rest = call.words[at:]
        if runs and rest and rest[0].text == "--":
            rest = rest[1:]
        if call.path and not _SYSTEM.fullmatch(call.path):
            self._note(call, harmless=False)
        if not rest:
            return self._shell_input(call)
        if not runs:
            self._check_known(call)
            if rest[0].piped or rest[0].text.startswith("/dev/"):
                self._walk.problem(f"{call.name!r} would run what it is given as input")
            self._note(call, harmless=False)
            return Outcome.of(call.state)
        if not rest[0].plain:
            self._note(call, harmless=False)
            raise NotUnderstoodError("a script is not known before it would run")
        self._check_dialect(call.name, rest[0].text)
        self._nested(rest[0].text, call, State({}, call.state.places))
        self._note_redirects(call)
        return Outcome.of(call.state)

    def _shell_input(self, call: _Call) -> Outcome:
        """Walk what a shell reads from its input, if that stands in the command."""
        text = call.redirects.text
        if text is None:
            self._note(call, harmless=False)
            self._walk.problem(f"{call.name!r} would run what it is given as input")
            return Outcome.of(call.state)
        self._check_dialect(call.name, text)
        self._nested(text, call, State({}, call.state.places))
        self._note_redirects(call)
        return Outcome.of(call.state)

    def _note_redirects(self, call: _Call) -> None:
        self.redirect_only(
            [*call.redirects.writes, *call.written], call.redirects.reads, call.state
        )

    def _check_dialect(self, name: str, script: str) -> None:
        if name in ("zsh", "fish"):
            self._walk.problem(f"{name!r} reads commands in a way of its own")
        elif name not in ("bash", "rbash") and _NOT_EVERY_SHELL.search(script):
            self._walk.problem(f"{name!r} may read the script differently")

    def _eval(self, call: _Call) -> Outcome:
        if not all(word.plain for word in call.words):
            raise NotUnderstoodError("a script is not known before it would run")
        text = " ".join(word.text for word in call.words[1:])
        after = self._nested(text, call, call.state)
        self._note_redirects(call)
        return Outcome.of(after.forgetting().or_else(call.state.forgetting()))

    def _trap(self, call: _Call) -> Outcome:
        words = [word for word in call.words[1:] if word.text != "--"]
        if words and words[0].text not in ("-", "", "-l", "-p"):
            return self._script_of(words[:1], call)
        self._note_redirects(call)
        return Outcome.of(call.state)

    def _find(self, call: _Call) -> Outcome:
        """Judge a search, and each program that it runs for what it finds."""
        kept: list[Word] = []
        inner: list[list[Word]] = []
        at = 0
        while at < len(call.words):
            word = call.words[at]
            at += 1
            if word.text not in ("-exec", "-execdir", "-ok", "-okdir"):
                kept.append(word)
                continue
            begin = at
            while at < len(call.words) and call.words[at].text not in (";", "+"):
                at += 1
            if at == begin or at == len(call.words):
                raise NotUnderstoodError("what 'find' would run is not known")
            inner.append(list(call.words[begin:at]))
            at += 1
        self._plain(replace(call, words=kept))
        for words in inner:
            filled = [_found(word, kept) for word in words]
            self._run(
                replace(call, words=filled, wrappers=(*call.wrappers, "find"), path="")
            )
        return Outcome.of(call.state)

    def _xargs(self, call: _Call) -> Outcome:
        stripped = strip(_XARGS, call.words)
        words = list(stripped.words) or [Word(text="echo")]
        marker = next(
            (
                stripped.options[o].text
                for o in ("-I", "--replace")
                if o in stripped.options
            ),
            None,
        )
        fed = None if {"-a", "--arg-file"} & set(stripped.options) else self._walk.fed_by()
        if fed is None:
            given = Word(text="…", known=False, several=True)
        else:
            text, pattern = ("./*", 2) if fed == "path" else ("*", 0)
            given = Word(text=text, pattern=pattern, several=True)
        if marker is None:
            words.append(given)
        else:
            words = [
                given
                if word.text == marker
                else replace(word, known=False)
                if marker in word.text
                else word
                for word in words
            ]
        if "-a" in stripped.options and not self._inside(call.state)(
            stripped.options["-a"]
        ):
            raise NotUnderstoodError("it leaves the directories that it may use")
        self._run(replace(call, words=words, wrappers=(*call.wrappers, "xargs"), path=""))
        return Outcome.of(call.state)

    # Builtins.

    def _cd(self, call: _Call) -> Outcome:
        words = [word for word in call.words[1:] if word.text not in ("--", "-L")]
        self._note(call, harmless=True)
        if len(words) != 1:
            raise NotUnderstoodError("the directory to change to is not known")
        entered = self._places.entered(words[0], call.state.places)
        moved = replace(call.state, places=entered)
        return Outcome(moved, call.state.or_else(moved))

    def _read(self, call: _Call) -> Outcome:
        stripped = strip(_READ, call.words)
        names = [word.text for word in stripped.words]
        if not all(word.plain for word in stripped.words):
            raise NotUnderstoodError("a variable that is read is not known")
        for name in names:
            if not _NAME.fullmatch(name):
                raise NotUnderstoodError("a variable that is read is not known")
            self._walk.check_name(name)
        state = call.state
        for name in names:
            state = state.assigned(name, None)
        self._note(call, harmless=True)
        return Outcome.of(state)

    def _set(self, call: _Call) -> Outcome:
        for word in call.words[1:]:
            if not word.plain or not (
                _SET_OPTIONS.fullmatch(word.text) or word.text in _SET_NAMES
            ):
                raise NotUnderstoodError("'set' may change how commands are read")
        self._note(call, harmless=True)
        return Outcome.of(call.state)

    def _source(self, call: _Call) -> Outcome:
        self._check_known(call)
        if any(word.piped or word.text.startswith("/dev/") for word in call.words[1:]):
            self._walk.problem("'source' would run what it is given as input")
        self._note(call, harmless=False)
        return Outcome.of(call.state.forgetting())

    def _condition(self, call: _Call) -> Outcome:
        """`test`, whose `-v` evaluates what stands in the brackets of a name."""
        if any(w.several or w.text in ("-v", "-R") for w in call.words) or (
            sum(not word.known for word in call.words) and len(call.words) > 4
        ):
            raise NotUnderstoodError("a condition may run something")
        self._note(call, harmless=True)
        return Outcome.of(call.state)


_XARGS = Wrapper(
    flags="0rtpxo",
    valued="InLPsdEa",
    long=named(
        "--null --no-run-if-empty --verbose --max-args= --max-procs= --max-lines="
        " --delimiter= --arg-file= --replace= --exit --open-tty"
    ),
)
_LOOKS_UP = ([Word(text="-v")], [Word(text="-V")])
_READ = Wrapper(flags="rse", valued="dnNptui")
_RUNS_OTHERS = frozenset({"find", "xargs"})
_SPECIAL: Mapping[str, Callable[[Programs, _Call], Outcome]] = {
    "eval": Programs._eval,
    "trap": Programs._trap,
    "find": Programs._find,
    "xargs": Programs._xargs,
    "cd": Programs._cd,
    "read": Programs._read,
    "set": Programs._set,
    "source": Programs._source,
    "test": Programs._condition,
    "[": Programs._condition,
}


def _is_wrapping(wrapper: Wrapper, words: Sequence[Word]) -> bool:
    if not wrapper.first:
        return True
    texts = [word.text for word in words[1:]]
    if texts[:1] == [wrapper.first]:
        return True
    if wrapper.first in texts and texts[0].startswith("-"):
        raise NotUnderstoodError(f"what {words[0].text!r} would run is not known")
    return False


def _is_sink(word: Word) -> bool:
    return word.piped or word.text in ("/dev/null", "/dev/stdout", "/dev/stderr")


def _split(word: Word) -> list[Word]:
    """Return the words of `env -S`, which has quotes and variables of its own."""
    if not re.fullmatch(r"[\w./ =:,@%+-]*", word.text, re.ASCII):
        raise NotUnderstoodError("what 'env' would run is not known")
    return [Word(text=text) for text in word.text.split(" ") if text]


def _found(word: Word, search: Sequence[Word]) -> Word:
    """Return a word of what `find` runs, with what it finds in the place of `{}`."""
    if "{}" not in word.text:
        return word
    if word.text != "{}":
        return replace(word, known=False)
    start = search[1].text if len(search) > 1 and search[1].text[0] not in "-(!" else "."
    return Word(text=f"{start.rstrip('/') or '/'}/*", pattern=len(start.rstrip("/")) + 1)
