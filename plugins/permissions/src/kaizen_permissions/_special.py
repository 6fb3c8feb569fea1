"""Words of a command line that a `*` in a rule does not stand for.

Whoever allows `make *` or `git add *` thinks of targets and files, not of `make --eval` or
`git -c`. What runs code that stands on the command line, loads it from a place of the
caller's choice, or writes to one, has to be spelled out in the rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from kaizen_permissions._git import subcommand
from kaizen_permissions._readers import awk_only_prints, sed_only_prints
from kaizen_permissions._words import named
from kaizen_permissions._wrappers import interpreter

__all__ = ["special_words"]


def _long(names: str) -> tuple[str, ...]:
    return tuple(f"--{name}" for name in names.split())


# For each program the letters, and the long options.
_SPECIAL: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "git": (
        "",
        _long(
            "config-env exec-path git-dir work-tree ext-diff upload-pack receive-pack"
            " output open-files-in-pager template exec config separate-git-dir extcmd"
            " smtp-server sendmail-cmd to-cmd cc-cmd"
        ),
    ),
    "make": ("fIE", _long("eval file makefile include-dir")),
    "tar": (
        "IF",
        _long(
            "to-command checkpoint-action use-compress-program rsh-command info-script"
            " new-volume-script rmt-command absolute-names"
        ),
    ),
    "rsync": ("e", _long("rsh rsync-path delete")),
    "vim": ("csSuUw", _long("cmd remote")),
    "emacs": ("fl", _long("eval execute load funcall batch script")),
    "ssh": ("oFEJSIi", ()),
    "scp": ("oFSJDi", ()),
    "sftp": ("obFSDi", ()),
    "curl": (
        "oOKTJDcE",
        _long(
            "output remote-name config upload-file output-dir dump-header cookie-jar trace"
            " proxy unix-socket libcurl stderr etag-save data-binary form"
        ),
    ),
    "wget": (
        "OPieoa",
        _long(
            "output-document directory-prefix input-file execute use-askpass post-file"
            " config"
            " output-file body-file"
        ),
    ),
    "sort": ("oT", _long("output compress-program temporary-directory")),
    "sed": ("if", _long("in-place file")),
    "awk": ("fiElo", _long("file include exec load output source")),
    "zip": ("T", _long("unzip-command")),
    "pytest": (
        "pco",
        _long(
            "rootdir override-ini basetemp confcutdir pdbcls pastebin config-file junit"
            " debug log-file cov-report cov-config import-mode report-log html trace-config"
        ),
    ),
    "ruff": ("o", _long("config output-file cache-dir")),
    "mypy": (
        "",
        _long(
            "config-file python-executable cache-dir junit-xml install-types txt-report"
            " html-report xml-report any-exprs-report linecount-report linecoverage-report"
            " lineprecision-report cobertura-xml-report xslt-html-report xslt-txt-report"
            " custom-typeshed-dir custom-typing-module shadow-file"
        ),
    ),
    "npm": (
        "c",
        _long(
            "prefix script-shell node-options userconfig globalconfig git shell call editor"
            " viewer location registry"
        ),
    ),
    "pip": (
        "i",
        _long(
            "target prefix root python index-url extra-index-url global-option"
            " config-settings log"
        ),
    ),
    "cargo": ("CZ", _long("config manifest-path target-dir out-dir")),
    "go": (
        "",
        tuple(
            f"-{name}"
            for name in named(
                "C exec toolexec vettool overlay modfile ldflags gcflags asmflags"
                " gccgoflags"
            )
        ),
    ),
    "docker": (
        "vH",
        _long(
            "volume mount privileged host entrypoint security-opt cap-add pid device config"
        ),
    ),
    "gcc": ("Bw", ("-wrapper", "-fplugin", "-specs")),
    "tsc": ("", _long("outDir outFile project build")),
    "eslint": (
        "co",
        _long(
            "config rulesdir plugin resolve-plugins-relative-to output-file parser format"
        ),
    ),
    "prettier": ("", _long("plugin config plugin-search-dir")),
    "black": ("", _long("config")),
    "date": ("s", _long("set")),
    "nox": ("f", _long("noxfile envdir default-venv-backend force-python")),
    "tox": ("c", _long("conf workdir root override")),
}
_SAME: Mapping[str, str] = {
    "gawk": "awk",
    "mawk": "awk",
    "gmake": "make",
    "pip3": "pip",
    "pnpm": "npm",
    "yarn": "npm",
    "vi": "vim",
    "nvim": "vim",
    "ex": "vim",
    "view": "vim",
    "bsdtar": "tar",
    "gtar": "tar",
    "gsed": "sed",
    "podman": "docker",
    "g++": "gcc",
    "clang": "gcc",
    "cc": "gcc",
    "py.test": "pytest",
}
# Options with which an interpreter runs no other program than the script that follows.
_PLAIN_OPTIONS = {
    "python": re.compile(r"-[uBOsSqvVbEIP]+|--version|--help"),
    "": re.compile(r"-w|-v|--version|--help|-"),
}
# Modules of Python that take no code on the command line, nor the name of another one.
_MODULES = named(
    "pytest unittest mypy ruff black isort flake8 build venv coverage pip tox nox sphinx"
    " json.tool py_compile compileall site http.server pyflakes pylint"
)
# Programs to which a word that begins with `@` is a name, and not a file of arguments.
_NAMES_AT = named("git npm npx pnpm yarn bun bunx gh docker podman echo ssh go")
# Subcommands of git that run what they are given, or what a configuration says.
_GIT_RUNNING = named(
    "config filter-branch filter-repo difftool mergetool hook for-each-repo send-email"
    " daemon instaweb archimport cvsserver http-backend p4 svn shell upload-pack"
    " receive-pack credential"
)
_WHOLE = named(  # those that take no shortened options
    "pytest ruff cargo docker go black eslint prettier tsc gcc"
)
_SWITCH = re.compile(r"[0-9]*|true|false|yes|no|on|off|debug|release")
_MAKE_VARIABLE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")
_COVERAGE = re.compile(r"--cov-report=(term(-missing)?(:skip-covered)?|)")
_GIT_RUNS = re.compile(r"(ext|fd)::|.*::.*|--upload-pack.*")


def special_words(name: str, argv: Sequence[str]) -> frozenset[int]:
    """Return where such words stand among a program's words, which its name begins."""
    if interpreter(name) is not None:
        return frozenset(_of_interpreter(name, argv))
    family = _SAME.get(name, name)
    letters, long = _SPECIAL.get(family, ("", ()))
    shortened = family not in _WHOLE
    found = {
        at
        for at, word in enumerate(argv)
        if at
        and (
            _is_special(word, letters, long, shortened=shortened)
            or (word.startswith("@") and len(word) > 1 and family not in _NAMES_AT)
        )
    }
    peculiar = _PECULIAR.get(family)
    if peculiar is not None:
        found = peculiar(argv, found)
    return frozenset(found)


def _of_interpreter(name: str, argv: Sequence[str]) -> set[int]:
    """Return the options before a script, if they do more than to say how it runs.

    Any of them may be code, or name some; the words after the script are its own.
    """
    python = name.startswith("py")
    plain = _PLAIN_OPTIONS["python" if python else ""]
    found: set[int] = set()
    for at, word in enumerate(argv[1:], start=1):
        if not word.startswith("-"):
            break
        if python and word == "-m" and at + 1 < len(argv) and argv[at + 1] in _MODULES:
            inner = special_words(argv[at + 1], argv[at + 1 :])
            return found | {at + 1 + each for each in inner}
        if python and word == "-m":
            return found | {at, at + 1}
        if plain.fullmatch(word) is None:
            found.add(at)
    return found


def _is_special(word: str, letters: str, long: tuple[str, ...], *, shortened: bool) -> bool:
    if not word.startswith("-") or word in ("-", "--"):
        return False
    name = word.partition("=")[0]
    if word.startswith("--"):
        return any(
            name.startswith(option) or (shortened and option.startswith(name))
            for option in long
        )
    return name in long or any(letter in letters for letter in word[1:])


def _make(argv: Sequence[str], found: set[int]) -> set[int]:
    """A variable of make may name the program that a recipe runs."""
    for at, word in enumerate(argv[1:], start=1):
        variable, equals, value = word.partition("=")
        if word.startswith("-"):
            found = found | {at} if equals and not word.startswith("--") else found
        elif equals and not (
            _MAKE_VARIABLE.fullmatch(variable) and _SWITCH.fullmatch(value)
        ):
            found = found | {at}
    return found


def _git(argv: Sequence[str], found: set[int]) -> set[int]:
    """Options before the subcommand change what it does; some addresses run a program."""
    at = subcommand(argv)
    found = found | set(range(1, at))
    if at >= len(argv):
        return found
    name, rest = argv[at], list(enumerate(argv))[at + 1 :]
    if name in _GIT_RUNNING:
        found.add(at)
    if name in ("bisect", "submodule"):
        word = "run" if name == "bisect" else "foreach"
        if word in argv[at:]:
            found.add(argv.index(word, at))
        elif name == "submodule":
            found.add(at + 1)
    letters = _GIT_LETTERS.get(name)
    if letters is not None:
        found |= {i for i, word in rest if re.match(rf"-[A-Za-z0-9]*[{letters}]", word)}
    if name in _GIT_TRANSPORTS:
        found |= {i for i, word in rest if _GIT_RUNS.match(word)}
    return found


# For each subcommand the letters of options that run a program, or name a file.
_GIT_LETTERS = {
    "grep": "O",
    "rebase": "x",
    "clone": "cu",
    "fetch": "u",
    "pull": "u",
    "ls-remote": "u",
}
_GIT_TRANSPORTS = named("clone fetch pull push ls-remote remote archive submodule")


def _go(argv: Sequence[str], found: set[int]) -> set[int]:
    """Go takes its options with two dashes as well."""
    long = _SPECIAL["go"][1]
    return found | {
        at
        for at, word in enumerate(argv)
        if word.startswith("--") and word[1:].partition("=")[0] in long
    }


def _pytest(argv: Sequence[str], found: set[int]) -> set[int]:
    """A report that is printed is no file."""
    return {at for at in found if not _COVERAGE.fullmatch(argv[at])}


def _sed(argv: Sequence[str], found: set[int]) -> set[int]:
    """A script of sed may run programs and write files."""
    found = set(found)
    given = follows = False
    first = 0
    for at, word in enumerate(argv[1:], start=1):
        if follows:
            found |= set() if sed_only_prints(word) else {at}
            follows = False
        elif word in ("-e", "--expression"):
            given = follows = True
        elif word.startswith(("-e", "--expression=")):
            script = word[2:] if word[1] == "e" else word.partition("=")[2]
            found |= set() if sed_only_prints(script) else {at}
            given = True
        elif word.startswith("-") and len(word) > 1:
            found |= set() if _SED_PLAIN.fullmatch(word) else {at}
        else:
            first = first or at
    if first and not given and not sed_only_prints(argv[first]):
        found.add(first)
    return found


_SED_PLAIN = re.compile(r"-[nErsuz]+|--|--quiet|--silent|--posix")


def _awk(argv: Sequence[str], found: set[int]) -> set[int]:
    """A program of awk may run others and write files."""
    return found | {
        at
        for at, word in enumerate(argv)
        if at
        and not awk_only_prints(word)
        and not word.startswith("-")
        and (not re.fullmatch(r"[A-Za-z0-9_./-]+", word) or at == _first_word(argv))
    }


def _first_word(argv: Sequence[str]) -> int:
    return next((at for at, word in enumerate(argv) if at and word[:1] != "-"), 0)


def _vim(argv: Sequence[str], found: set[int]) -> set[int]:
    return found | {at for at, word in enumerate(argv) if word.startswith("+")}


_PECULIAR = {
    "make": _make,
    "git": _git,
    "go": _go,
    "pytest": _pytest,
    "sed": _sed,
    "awk": _awk,
    "vim": _vim,
}
