"""Programs that run another program, which is named by their arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kaizen_permissions._words import NotUnderstoodError, Word, named

__all__ = [
    "INTERPRETERS",
    "SHELLS",
    "UNSUPPORTED",
    "WRAPPERS",
    "Stripped",
    "Wrapper",
    "harmless_variable",
    "interpreter",
    "strip",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """How a wrapper's arguments are told from those of what it runs.

    Attributes:
        flags: Letters of options without a value.
        valued: Letters of options with a value.
        long: Long options without a value, and with one as `name=`.
        skipped: How many arguments come before the program.
        assigns: Whether assignments come before the program.
        alone: Whether it is more than a wrapper: a rule has to allow it, too.
        first: A word that has to come first, as in `uv run`.
        script: Whether it gives its arguments to a shell, joined by blanks.
        writes: Options whose value is a file that is written.
    """

    flags: str = ""
    valued: str = ""
    long: frozenset[str] = frozenset()
    skipped: int = 0
    assigns: bool = False
    alone: bool = False
    first: str = ""
    script: bool = False
    writes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripped:
    """What is left when a wrapper is taken off.

    Attributes:
        words: What it runs, the program first; empty if nothing.
        options: Its own options, by name.
        assigned: The variables that it sets.
    """

    words: Sequence[Word]
    options: Mapping[str, Word]
    assigned: Mapping[str, str] = field(default_factory=dict)


def _long(names: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in names.split())


_RUN = Wrapper(first="run", alone=True)
WRAPPERS: Mapping[str, Wrapper] = {
    "env": Wrapper(
        flags="i0v",
        valued="uCS",
        long=_long("ignore-environment unset= chdir= split-string= null debug"),
        assigns=True,
    ),
    "command": Wrapper(),
    "builtin": Wrapper(),
    "exec": Wrapper(flags="cl", valued="a"),
    "nohup": Wrapper(),
    "setsid": Wrapper(flags="cfw", long=_long("ctty fork wait")),
    "stdbuf": Wrapper(valued="ioe", long=_long("input= output= error=")),
    "time": Wrapper(
        flags="pvaq",
        valued="fo",
        long=_long("portability verbose append quiet format= output="),
        writes=frozenset({"-o", "--output"}),
    ),
    "nice": Wrapper(flags="0123456789", valued="n", long=_long("adjustment=")),
    "ionice": Wrapper(flags="t", valued="cn", long=_long("class= classdata= ignore")),
    "chrt": Wrapper(flags="bfiorR", skipped=1),
    "taskset": Wrapper(flags="c", skipped=1, long=_long("cpu-list")),
    "timeout": Wrapper(
        flags="v",
        valued="ks",
        long=_long("foreground preserve-status verbose kill-after= signal="),
        skipped=1,
    ),
    "busybox": Wrapper(),
    "toybox": Wrapper(),
    "unbuffer": Wrapper(flags="p"),
    "chronic": Wrapper(flags="ve"),
    "sudo": Wrapper(
        flags="AbEeHKknPSsiV",
        valued="CDghpRrTtUu",
        long=_long("user= group= host= prompt= chdir= preserve-env login shell stdin"),
        assigns=True,
        alone=True,
    ),
    "doas": Wrapper(flags="nsL", valued="uCa", alone=True),
    "pkexec": Wrapper(long=_long("user= disable-internal-agent"), alone=True),
    "setpriv": Wrapper(
        long=_long("reuid= regid= clear-groups keep-groups no-new-privs"), alone=True
    ),
    "gosu": Wrapper(skipped=1, alone=True),
    "chroot": Wrapper(long=_long("userspec= groups= skip-chdir"), skipped=1, alone=True),
    "unshare": Wrapper(flags="muinpUCTrcfh", long=_long("fork mount-proc"), alone=True),
    "proot": Wrapper(alone=True),
    "fakeroot": Wrapper(alone=True),
    "strace": Wrapper(
        flags="fFvqtTyCcdiknrzZx",
        valued="eopsaEIObPSuUX",
        alone=True,
        writes=frozenset({"-o", "--output"}),
    ),
    "ltrace": Wrapper(flags="fSCtTri", valued="eopsnu", alone=True),
    "flock": Wrapper(
        flags="snxeuoFv",
        valued="wEc",
        long=_long("shared exclusive nonblock wait= timeout= command= close verbose"),
        skipped=1,
        alone=True,
    ),
    "watch": Wrapper(
        flags="bcdegtpx",
        valued="nq",
        long=_long("interval= differences color errexit chgexit no-title precise exec"),
        script=True,
    ),
    "uv": Wrapper(
        first="run",
        alone=True,
        flags="qvn",
        valued="pm",
        long=_long(
            "frozen locked no-sync no-project isolated active offline python= group= extra="
            " package= no-dev all-extras quiet exact"
        ),
    ),
    "poetry": _RUN,
    "pipenv": _RUN,
    "pdm": _RUN,
    "hatch": _RUN,
    "rye": _RUN,
    "bundle": Wrapper(first="exec", alone=True),
    "npx": Wrapper(alone=True, flags="yq", long=_long("yes no no-install quiet")),
    "bunx": Wrapper(alone=True),
}

SHELLS = named("sh bash dash zsh ksh mksh ash rbash fish")

# What runs a script of its own language: letters of options that are followed by code, and
# of those that have another value.
INTERPRETERS: Mapping[str, tuple[str, str]] = {
    "python": ("c", "mWX"),
    "python2": ("c", "mWX"),
    "python3": ("c", "mWX"),
    "pypy3": ("c", "mWX"),
    "perl": ("eE", "IMm"),
    "ruby": ("e", "IrCEF"),
    "node": ("ep", "rC"),
    "php": ("rBRE", "cdfzS"),
    "lua": ("e", "l"),
    "luajit": ("e", "lj"),
    "Rscript": ("e", ""),
    "osascript": ("e", "l"),
    "tclsh": ("", ""),
    "expect": ("c", "f"),
    "ghc": ("e", ""),
    "julia": ("eE", "LJ"),
    "scala": ("e", ""),
    "groovy": ("e", ""),
    "elixir": ("e", "r"),
}


def interpreter(name: str) -> tuple[str, str] | None:
    """Return the letters of an interpreter's options; its name may have a version."""
    return INTERPRETERS.get(name) or INTERPRETERS.get(name.rstrip("0123456789.-"))


# What takes code as an argument, or changes how the rest of a command is read, in ways that
# are not followed.
UNSUPPORTED: Mapping[str, str] = {
    "alias": "gives a command another name",
    "bind": "may bind a command to a key",
    "complete": "may run a command",
    "compgen": "may run a command",
    "coproc": "runs a command beside the shell",
    "enable": "may replace a builtin",
    "hash": "may change what a name runs",
    "shopt": "changes how commands are read",
    "let": "evaluates arithmetic, in which commands may run",
    "getopts": "sets variables in ways that are not followed",
    "mapfile": "sets variables in ways that are not followed",
    "readarray": "sets variables in ways that are not followed",
    "pushd": "changes the directory in ways that are not followed",
    "popd": "changes the directory in ways that are not followed",
    "parallel": "runs commands in a language of its own",
    "gdb": "runs programs in a language of its own",
    "su": "runs a shell as another user",
    "runuser": "runs a shell as another user",
    "nsenter": "runs a program in another namespace",
    "fc": "runs commands of the past",
    "history": "may change what is kept of commands",
}


_HARMLESS = re.compile(
    r"CI|DEBUG|VERBOSE|(NO|FORCE|CLICOLOR_FORCE|CLICOLOR)_?COLOR|CLICOLOR|TERM|COLUMNS"
    r"|LINES|LANG|LANGUAGE|LC_[A-Z]+|TZ|NODE_ENV|RAILS_ENV|APP_ENV|FLASK_ENV|PORT|LOG_LEVEL"
    r"|PYTHONUNBUFFERED|PYTHONDONTWRITEBYTECODE|PYTHONHASHSEED|PYTHONUTF8|RUST_BACKTRACE"
    r"|RUST_LOG|SOURCE_DATE_EPOCH|GOOS|GOARCH|CGO_ENABLED|DJANGO_DEBUG|HUSKY"
)
_HARMLESS_VALUE = re.compile(r"[A-Za-z0-9_.,:@+=-]*")


def harmless_variable(name: str, value: str | None) -> bool:
    """Tell whether a variable in a program's environment cannot change what it runs."""
    if name in ("PAGER", "GIT_PAGER") and value in ("cat", ""):
        return True
    return (
        value is not None
        and _HARMLESS.fullmatch(name) is not None
        and _HARMLESS_VALUE.fullmatch(value) is not None
    )


def strip(wrapper: Wrapper, words: Sequence[Word]) -> Stripped:
    """Take a wrapper off.

    Raises:
        NotUnderstoodError: An option is not known, so that it cannot be told where the
            program begins.
    """
    options: dict[str, Word] = {}
    at = _options(wrapper, words, 1 + bool(wrapper.first), options)
    if not all(word.plain for word in words[at : at + wrapper.skipped]):
        raise NotUnderstoodError(f"what {words[0].text!r} would run is not known")
    at += wrapper.skipped
    assigned: dict[str, str] = {}
    while wrapper.assigns and at < len(words):
        word = words[at]
        name, equals, value = word.text.partition("=")
        if not word.plain or not equals:
            break
        assigned[name] = value
        at += 1
    return Stripped(words=words[at:], options=options, assigned=assigned)


def _options(
    wrapper: Wrapper, words: Sequence[Word], at: int, options: dict[str, Word]
) -> int:
    """Read options into a mapping, and return where they end."""
    name = words[0].text
    while at < len(words) and words[at].text.startswith("-"):
        word = words[at]
        at += 1
        if word.text == "--" and word.plain:
            break
        if not word.plain:
            raise NotUnderstoodError(f"an option of {name!r} is not known")
        if word.text == "-" and name == "env":
            continue
        option, value = _option(wrapper, word, name)
        if value is None:
            options[option] = Word(text="")
        elif value:
            options[option] = Word(text=value)
        elif at < len(words):
            if not words[at].plain:
                raise NotUnderstoodError(f"an option of {name!r} is not known")
            options[option] = words[at]
            at += 1
        else:
            raise NotUnderstoodError(f"an option of {name!r} has no value")
    return at


def _option(wrapper: Wrapper, word: Word, name: str) -> tuple[str, str | None]:
    """Return an option and its value: `None` if it takes none, empty if it follows."""
    text = word.text
    if text.startswith("--"):
        option, given, value = text.partition("=")
        if given and f"{option}=" in wrapper.long and value:
            return option, value
        if not given and option in wrapper.long:
            return option, None
        if not given and f"{option}=" in wrapper.long:
            return option, ""
    else:
        for at, letter in enumerate(text[1:], start=1):
            if letter in wrapper.valued:
                return f"-{letter}", text[at + 1 :]
            if letter not in wrapper.flags:
                break
        else:
            if len(text) > 1:
                return text, None
    raise NotUnderstoodError(f"the option {text!r} of {name!r} is not known")
