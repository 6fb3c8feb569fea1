"""Words of a command line that a `*` in a rule does not stand for.

Whoever allows `make *` or `git add *` thinks of targets and files, not of `make --eval` or
`git -c`. What runs code that stands on the command line, loads it from a place of the
caller's choice, or writes to one, has to be spelled out in the rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

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
            " output"
            " open-files-in-pager template exec config separate-git-dir"
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
_WHOLE = named(  # those that take no shortened options
    "pytest ruff cargo docker go black eslint prettier tsc gcc"
)
_SWITCH = re.compile(r"[0-9]*|true|false|yes|no|on|off|debug|release")
_MAKE_VARIABLE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")
_COVERAGE = re.compile(r"--cov-report=(term(-missing)?(:skip-covered)?|)")
_GIT_RUNS = re.compile(r"(ext|fd)::|.*::.*|--upload-pack.*")


def special_words(name: str, argv: Sequence[str]) -> frozenset[int]:
    """Return where such words stand among a program's words, which its name begins."""
    family = _SAME.get(name, name)
    letters, long = _SPECIAL.get(family, ("", ()))
    if (language := interpreter(name)) is not None:
        letters, long = language[0], _long("eval print run require import command")
        if name.startswith("py") and len(argv) > 2 and argv[1] == "-m":
            return frozenset(at + 2 for at in special_words(argv[2], argv[2:]))
    shortened = family not in _WHOLE
    found = {
        at
        for at, word in enumerate(argv)
        if at and _is_special(word, letters, long, shortened=shortened)
    }
    peculiar = _PECULIAR.get(family)
    if peculiar is not None:
        found = peculiar(argv, found)
    return frozenset(found)


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
    for at, word in enumerate(argv[1:], start=1):
        if not word.startswith("-"):
            break
        found = found | {at}
    clones = len(argv) > 1 and argv[1] in ("clone", "fetch", "pull", "push", "ls-remote")
    return found | {
        at
        for at, word in enumerate(argv)
        if at > 1 and clones and (_GIT_RUNS.match(word) or re.match(r"-[a-z]*[cu]", word))
    } - {at for at, word in enumerate(argv) if word == "-u" and argv[1] == "push"}


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
    return found | _scripts(argv, "e", sed_only_prints)


def _awk(argv: Sequence[str], found: set[int]) -> set[int]:
    """A program of awk may run others and write files."""
    return found | _scripts(argv, "", awk_only_prints)


def _scripts(argv: Sequence[str], letter: str, prints: Callable[[str], bool]) -> set[int]:
    """Return where words stand that may be scripts, and do more than print."""
    return {
        at
        for at, word in enumerate(argv)
        if at
        and not prints(word)
        and (not word.startswith("-") or (letter and letter in word))
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
