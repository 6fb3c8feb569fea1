"""Judges one program with its words: what it wraps, what it only reads, what it writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from posixpath import basename, isabs, join, normpath
from typing import TYPE_CHECKING

from kaizen_permissions._git import (
    folder_of_git,
    git_only_reads,
    keeps_files,
    scripts_of_git,
    subcommand,
)
from kaizen_permissions._judged import Invocation
from kaizen_permissions._places import Reach
from kaizen_permissions._readers import is_reader, only_reads
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

__all__ = ["Programs", "Search", "check_condition"]

_MAX_WRAPPERS = 12
_SYSTEM = re.compile(r"(/usr)?(/local)?/s?bin/[^/]+|/opt/homebrew/bin/[^/]+")
_LOADERS = re.compile(r"ld-(linux|musl).*|ld\.so.*")
_NOT_EVERY_SHELL = re.compile(
    r"\$'|\(\(|&>|\[\[|\{[^}\n]*(,|\.\.)|<\(|>\(|<<<|\bfunction\b"
)
_WRITING = named(
    "tee touch mkdir rm rmdir truncate shred unlink chmod chown chgrp mv cp ln install"
)
_COPYING = named("cp mv ln install")
_PRINTING = named("-printf -ls -print")
_NAMING = named(
    "-name -iname -path -ipath -wholename -iwholename -regex -iregex -lname -ilname"
)
_LOOSENING = named("-o -or , ! -not")
_PASSING = re.compile(r"-(z|zu|uz|zr|rz)|--zero-terminated")
_PASSING_GREP = re.compile(r"-(?=.*z)[zviEF]+")
_SCRIPTED = named("sed gsed awk gawk mawk jq")
_SHELL_OPTIONS = re.compile(r"-[ceuxfbhv]+|\+[euxfbhv]+")
_SET_OPTIONS = re.compile(r"[-+][euxfCv]+|[-+][euxfCv]*o")
_SET_NAMES = named("errexit nounset xtrace pipefail noglob noclobber verbose")
_NAME = re.compile(r"[a-z_][A-Za-z0-9_]*|[A-Z][A-Z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search for files.

    Attributes:
        folder: Where it searches.
        files: Whether it finds nothing but files, and so no links.
    """

    folder: str
    files: bool


@dataclass(frozen=True, slots=True)
class _Call:
    """One program with all that goes with it."""

    words: Sequence[Word]
    environment: Mapping[str, str]
    redirects: Redirects
    state: State
    wrappers: tuple[str, ...] = ()
    path: str = ""
    written: tuple[Word, ...] = ()
    searched: tuple[Word, ...] = ()

    @property
    def name(self) -> str:
        return self.words[0].text if self.words else ""


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

    def fed(
        self, invocations: Sequence[Invocation], before: Search | None
    ) -> Search | None:
        """Return the search of which a part of a pipeline prints what is found.

        Only names that end in a NUL stay what they are: a name may hold anything else.
        """
        if len(invocations) != 1 or not invocations[0].only_reads:
            return None
        one = invocations[0]
        argv = one.argv
        if one.wrappers or one.unknown:
            return None
        if argv[0] == "sort" and len(argv) == 2 and _PASSING.fullmatch(argv[1]):
            return before
        if argv[0] == "grep" and len(argv) == 3 and _PASSING_GREP.fullmatch(argv[1]):
            return None if argv[2].startswith("-") else before
        if argv[0] != "find" or argv[-1] != "-print0" or len(argv) < 3:
            return None
        return _search(argv)

    def _run(self, call: _Call) -> Outcome:
        if len(call.wrappers) > _MAX_WRAPPERS:
            raise NotUnderstoodError("it is wrapped too often")
        call, system = self._named(call)
        name = call.name
        if name in UNSUPPORTED:
            self._walk.problem(f"{name!r} {UNSUPPORTED[name]}")
            self._plain(call)
            return Outcome.of(call.state.forgetting())
        if _LOADERS.fullmatch(name):
            return self._wrapped(call, Wrapper(alone=True))
        if (wrapper := WRAPPERS.get(name)) is not None and _is_wrapping(
            wrapper, call.words
        ):
            return self._wrapped(call, wrapper if system else replace(wrapper, alone=True))
        if name in SHELLS:
            return self._shell(call)
        if _sets_variables(call.words):
            self._walk.problem(f"{name!r} sets variables in ways that are not followed")
            self._plain(call)
            return Outcome.of(call.state.forgetting())
        special = _SPECIAL.get(name)
        if special is not None and (system or name in _RUNS_OTHERS):
            return special(self, call)
        return self._plain(call)

    def _named(self, call: _Call) -> tuple[_Call, bool]:
        """Return a call with the program's bare name, and whether it is the system's."""
        first = call.words[0]
        if not first.plain or not first.text or not first.text.isascii():
            self._walk.may_run_anything()
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
        judge = git_only_reads if call.name == "git" else only_reads
        reads = judge(call.words, Reach(self._places, call.state.places))
        if call.path and not _SYSTEM.fullmatch(call.path):
            reads = None
        harmless = reads is not None
        if reads is None:
            self._check_known(call)
            reads = list(self._perhaps_read(call))
        self._note(call, harmless=harmless, reads=[*reads, *call.searched])
        return Outcome.of(call.state)

    def _perhaps_read(self, call: _Call) -> Iterator[Word]:
        """Give what a program may read that is not known only to read.

        One that is there to read reads what it is given; of another, the words count that
        are files.
        """
        reads = is_reader(call.name)
        for word in _given(call.words):
            if (reads and not word.text.startswith("-")) or word.pattern >= 0:
                yield word
            else:
                yield from self._places.files_in(word.text, call.state.places)

    def _check_known(self, call: _Call) -> None:
        """Note what a program would be given that is not known."""
        for word in call.words[1:]:
            if not word.known or word.several:
                self._walk.problem(
                    f"{word.text!r} is not known before {call.name!r} would run"
                )
            elif word.pattern == 0 or (word.pattern > 0 and word.text.startswith("-")):
                self._walk.problem(f"{word.text!r} may stand for an option")
        if call.name in _SCRIPTED and not _script_is_known(call.words):
            self._walk.problem(f"a script of {call.name!r} is not known before it runs")
        if call.name == "git":
            at = subcommand([word.text for word in call.words])
            if any(word.pattern >= 0 for word in call.words[: at + 1]):
                self._walk.problem("what git would do is not known")
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
        reads: Sequence[Word] = (),
    ) -> None:
        """Add a program to what would run."""
        words = call.words
        places = call.state.places
        argv = tuple(word.text for word in words)
        redirected = [*call.redirects.writes, *call.written]
        inside = self._inside(call.state)
        leaves = not all(map(inside, (*redirected, *call.redirects.reads))) or any(
            self._places.is_protected(word, places) for word in redirected
        )
        shown = self._shown((word for word in redirected if not _is_sink(word)), places)
        read = self._shown((*call.redirects.reads, *reads, *_copied(words)), places)
        self._walk.invocations.append(
            Invocation(
                argv=argv,
                path=call.path,
                wrappers=call.wrappers,
                environment=call.environment,
                writes=(*shown, *self._written(words, places)),
                reads=tuple(dict.fromkeys(read)),
                touched=() if harmless else tuple(self._touched(words, places)),
                redirected=tuple(shown),
                harmless=harmless,
                leaves=leaves,
                special=frozenset() if harmless else self._special(words, places),
                unknown=frozenset(
                    at for at, word in enumerate(words) if not word.known or word.several
                ),
            )
        )

    def _shown(self, words: Iterable[Word], places: Sequence[str]) -> list[str]:
        return [path for word in words for path in self._places.shown(word, places)]

    def _touched(self, words: Sequence[Word], places: Sequence[str]) -> Iterator[str]:
        """Give what a program may read or write of which that is not known."""
        name = words[0].text
        script = name in _SCRIPTED or interpreter(name) is not None
        argv = [word.text for word in words]
        if name == "git" and not keeps_files(argv):
            yield from self._places.tops(folder_of_git(words), places)
        if _works_here(argv):
            words = [*words, Word(text=".")]
        for word in _given(words):
            if word.pattern >= 0:
                yield from self._places.shown(word, places)
                continue
            for each in self._places.paths_in(word.text, places, script=script):
                yield from self._places.shown(Word(text=each), places)

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
        if self._places.may_be_protected(word, places):
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
                self._note(call, harmless=call.name in ("exec", "command", "time"))
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
        while at < len(call.words) and call.words[at].text.startswith(("-", "+")):
            word = call.words[at]
            if word.plain and word.text in ("-", "--"):
                break
            if not word.plain or not _SHELL_OPTIONS.fullmatch(word.text):
                self._note(call, harmless=False)
                raise NotUnderstoodError(
                    f"the option {word.text!r} of a shell is not known"
                )
            runs = runs or "c" in word.text
            at += 1
        rest = call.words[at:]
        if rest and rest[0].text in ("-", "--"):
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
        """A handler may run between any two commands from here on."""
        words = [word for word in call.words[1:] if word.text != "--"]
        if not words or words[0].text in ("-", "", "-l", "-p"):
            self._note_redirects(call)
            return Outcome.of(call.state)
        self._walk.problem("what a trap runs may come between any two commands")
        self._script_of(words[:1], call)
        return Outcome.of(call.state.forgetting())

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
            if word.text.endswith("dir"):
                self._walk.problem("a program would run in each folder of what is found")
            begin = at
            while at < len(call.words) and call.words[at].text not in (";", "+"):
                at += 1
            if at == begin or at == len(call.words):
                raise NotUnderstoodError("what 'find' would run is not known")
            inner.append(list(call.words[begin:at]))
            at += 1
        self._plain(replace(call, words=kept))
        for words in inner:
            self._run_for_found(call, words, [word.text for word in kept])
        return Outcome.of(call.state)

    def _run_for_found(
        self, call: _Call, words: Sequence[Word], argv: Sequence[str]
    ) -> None:
        """Judge what `find` runs for what it finds by the rest of its words."""
        if not all(word.plain for word in words):
            self._walk.problem("what 'find' would run is not known")
        search = _search(argv)
        found, searched = self._handed(search, call)
        filled = [
            found if word.text == "{}" else replace(word, known="{}" not in word.text)
            for word in words
        ]
        wrappers = (*call.wrappers, "find")
        self._run(
            replace(call, words=filled, wrappers=wrappers, path="", searched=searched)
        )

    def _handed(self, search: Search | None, call: _Call) -> tuple[Word, tuple[Word, ...]]:
        """Return what stands for the files found, and the folder that they are in."""
        if search is None:
            return _ANYTHING, ()
        folder = (Word(text=search.folder),)
        if not search.files and not self._places.has_no_way_out(
            search.folder, call.state.places
        ):
            return _ANYTHING, folder
        start = search.folder.rstrip("/")
        return Word(text=f"{start}/*", pattern=len(start) + 1, several=True), folder

    def _xargs(self, call: _Call) -> Outcome:
        stripped = strip(_XARGS, call.words)
        words = list(stripped.words) or [Word(text="echo")]
        options = stripped.options
        marker = next((options[o].text for o in ("-I", "--replace") if o in options), None)
        fed = self._walk.fed_by()
        separated = any(
            each == "--null" or re.fullmatch(r"-[rtpxo]*0[0rtpxo]*", each)
            for each in options
        )
        other = call.redirects.fed or call.redirects.reads
        if other or not separated or {"-a", "--arg-file"} & options.keys():
            fed = None
        given, searched = self._handed(fed, call)
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
        for option in ("-a", "--arg-file"):
            if option in options and not self._inside(call.state)(options[option]):
                raise NotUnderstoodError("it leaves the directories that it may use")
        wrappers = (*call.wrappers, "xargs")
        self._run(replace(call, words=words, wrappers=wrappers, path="", searched=searched))
        return Outcome.of(call.state)

    def _git(self, call: _Call) -> Outcome:
        """Judge a command of git, and the scripts that it would run."""
        self._plain(call)
        if any(w.text.startswith(("alias.", "-calias.")) for w in call.words):
            self._walk.problem("git is given another command")
        if self._places.repository(folder_of_git(call.words), call.state.places) is False:
            self._walk.problem("git would find a repository that may not be its owner's")
        for script in scripts_of_git(call.words):
            self._script_of(script, replace(call, redirects=Redirects()))
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
        if len(call.words) < 2:
            raise NotUnderstoodError("'set' shows all variables, which may be secret")
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
        words = call.words[1:]
        if call.name == "[" and words and words[-1].text == "]":
            words = words[:-1]
        check_condition(words)
        self._note(call, harmless=True)
        return Outcome.of(call.state)


def check_condition(words: Sequence[Word]) -> None:
    """Refuse a condition in single brackets in which something may run.

    Raises:
        NotUnderstoodError: A word that is not known could be an operator, or several words.
    """
    if any(
        w.several or w.pattern >= 0 or (w.known and w.text in ("-v", "-R")) for w in words
    ):
        raise NotUnderstoodError("a condition may run something")
    if len(words) < 2 or all(word.known for word in words):
        return
    if words[0].known and words[0].text == "!":
        check_condition(words[1:])
        return
    operator = words[0] if len(words) == 2 else words[1]
    if len(words) > 3 or not operator.known or operator.text not in _TESTS[len(words)]:
        raise NotUnderstoodError("a condition may run something")


_TESTS = {
    2: named("-e -f -d -r -w -x -s -n -z -L -h -p -S -b -c -g -k -u -O -G -N -t"),
    3: named("= == != < > -eq -ne -lt -le -gt -ge -nt -ot -ef"),
}
_ANYTHING = Word(text="…", known=False, several=True)
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
_RUNS_OTHERS = frozenset({"find", "xargs", "git"})
_SPECIAL: Mapping[str, Callable[[Programs, _Call], Outcome]] = {
    "eval": Programs._eval,
    "trap": Programs._trap,
    "git": Programs._git,
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


def _sets_variables(words: Sequence[Word]) -> bool:
    """Tell whether a builtin, as a mere program, would set or forget a variable."""
    name = words[0].text
    if name in ("printf", "wait"):
        letter = "v" if name == "printf" else "p"
        return any(
            not word.plain or re.match(rf"-[a-z]*{letter}", word.text)
            for word in words[1 : 2 if name == "printf" else None]
        )
    return name in ("declare", "typeset", "local", "export", "readonly", "unset")


def _script_is_known(words: Sequence[Word]) -> bool:
    """Tell whether no pattern stands where `sed` or `awk` may look for a script."""
    given = False
    for before, word in pairwise(words):
        option = before.text.startswith("-") and not _SED_FLAGS.fullmatch(before.text)
        if word.pattern >= 0 and (option or not given):
            return False
        given = given or (option and before.text in ("-e", "-f"))
        given = given or (not option and not word.text.startswith("-"))
    return True


_SED_FLAGS = re.compile(r"-[nErsuz]*(i.*)?")


def _copied(words: Sequence[Word]) -> Iterator[Word]:
    """Give the files that are read where others are written."""
    if words[0].text in _COPYING:
        yield from (word for word in words[1:] if not word.text.startswith("-"))
    elif words[0].text == "dd":
        for word in words[1:]:
            if word.text.startswith("if="):
                yield Word(text=word.text[3:])


def _given(words: Sequence[Word]) -> Iterator[Word]:
    """Give the words of a program that may name files, as far as they are known."""
    search = words[0].text == "find"
    for before, word in pairwise(words):
        if word.known and not word.piped and not (search and before.text in _NAMING):
            yield word


def _works_here(argv: Sequence[str]) -> bool:
    """Tell whether a program changes what is in the folder where it starts, unnamed."""
    name, first = argv[0], argv[1] if len(argv) > 1 else ""
    if name == "find":
        return not first or first.startswith("-")
    if name in ("tar", "bsdtar", "gtar"):
        return _LETTERS_WITH_X.match(first) is not None or any(map(_extracts, argv[1:]))
    return name in _UNPACKING or (name == "git" and not keeps_files(argv))


def _extracts(option: str) -> bool:
    """Tell whether an option of `tar` may be the one that unpacks; it can be shortened."""
    if option.startswith("--"):
        return len(option) > 2 and any(each.startswith(option) for each in _EXTRACTING)
    return option.startswith("-") and _LETTERS_WITH_X.match(option, 1) is not None


_LETTERS_WITH_X = re.compile(r"[a-zA-Z]*x")
_EXTRACTING = ("--extract", "--get")
_UNPACKING = named(
    "unzip patch cpio bsdcpio pax 7z 7za 7zr 7zz unrar rar unar jar ar cabextract"
)


def _search(argv: Sequence[str]) -> Search | None:
    """Return what `find` searches, if that is one folder and it prints names alone."""
    if len(argv) < 2 or not argv[1] or re.match(r"[-(!,]|.*[*?[]", argv[1], re.DOTALL):
        return None
    tests = argv[2:]
    if (tests and (not tests[0] or tests[0][0] not in "-(!")) or _PRINTING & set(tests):
        return None
    files = ("-type", "f") in pairwise(tests) and not _LOOSENING & set(tests)
    return Search(folder=argv[1], files=files)
