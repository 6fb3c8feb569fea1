"""Programs that only read, and the options with which that stays so.

What is not listed here may do anything. An option that is not listed for a program counts
as one that writes, unless the program has none that do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kaizen_permissions._words import Word, named

__all__ = ["Inside", "awk_only_prints", "only_reads", "sed_only_prints"]

Inside = Callable[[Word], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """What a program may be given and still only read.

    Attributes:
        flags: Letters of options without a value; `None` if no option does harm.
        valued: Letters of options with a value.
        long: Long options without a value, and with one as `name=`; `None` if no option
            does harm.
        paths: Whether its arguments are files.
        skipped: How many arguments that are no files come first.
        named: Options whose value is a file.
        instead: Options that take the place of the skipped argument.
        most: Most arguments.
    """

    flags: str | None = None
    valued: str = ""
    long: frozenset[str] | None = None
    paths: bool = True
    skipped: int = 0
    named: frozenset[str] = frozenset({"-f", "--file", "--exclude-from"})
    instead: frozenset[str] = frozenset()
    most: int = 1_000_000


def _long(names: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in names.split())


_ANY = Reader()
_WORDS = Reader(paths=False)
_GREP = Reader(
    valued="ABCmefdD",
    skipped=1,
    instead=frozenset({"-e", "-f", "--regexp", "--file"}),
    long=_long(
        "after-context= before-context= context= max-count= regexp= file= include= exclude="
        " exclude-dir= exclude-from= color colour color= colour= count extended-regexp"
        " fixed-strings basic-regexp perl-regexp ignore-case no-ignore-case invert-match"
        " word-regexp line-regexp files-with-matches files-without-match only-matching"
        " quiet"
        " silent no-messages byte-offset with-filename no-filename label= line-number"
        " initial-tab null text binary-files= binary-files recursive dereference-recursive"
        " line-buffered null-data version help directories= devices="
    ),
)
_RG = Reader(
    flags="aiIvwxclLnNopqsSuUFHP.0zh",
    valued="ABCegGtTmMjfrE",
    skipped=1,
    instead=frozenset({"-e", "-f", "--regexp", "--file", "--files", "--type-list"}),
    long=_long(
        "after-context= before-context= context= max-count= regexp= file= glob= iglob="
        " type="
        " type-not= max-depth= max-columns= color= colors= sort= sortr= replace= threads="
        " encoding= files type-list hidden no-ignore no-ignore-vcs no-heading heading count"
        " count-matches files-with-matches files-without-match fixed-strings ignore-case"
        " smart-case case-sensitive invert-match line-number no-line-number only-matching"
        " multiline multiline-dotall pcre2 json quiet stats text trim vimgrep with-filename"
        " no-filename word-regexp line-regexp null passthru version help column follow"
        " no-messages no-config unrestricted pretty line-buffered"
    ),
)
_CHECKSUM = Reader(
    flags="bctwz", long=_long("binary check tag text zero quiet status strict")
)
_READERS: Mapping[str, Reader] = {
    **dict.fromkeys(
        named(
            "ls cat head tail wc nl tac rev comm join paste fold expand unexpand cmp"
            " stat du df"
            " realpath readlink od hexdump strings diff fmt pr tsort zcat"
        ),
        _ANY,
    ),
    **dict.fromkeys(
        named(
            "echo true false : basename dirname seq sleep pwd id whoami uname nproc"
            " arch groups"
            " uptime free tty exit return break continue shift times printenv expr"
            " numfmt tr ps"
            " getconf locale cal which type"
        ),
        _WORDS,
    ),
    **dict.fromkeys(
        named("md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum cksum"),
        _CHECKSUM,
    ),
    "grep": _GREP,
    "egrep": _GREP,
    "fgrep": _GREP,
    "rg": _RG,
    "wait": Reader(flags="fn", long=frozenset(), paths=False),
    "jobs": Reader(flags="lnprs", long=frozenset(), paths=False),
    "cut": Reader(
        flags="sz",
        valued="dfbc",
        long=_long("delimiter= fields= characters= bytes= only-delimited complement"),
        named=frozenset(),
    ),
    "sort": Reader(
        flags="bdfghiMnRrVcCmsuz",
        valued="ktS",
        long=_long(
            "reverse unique numeric-sort human-numeric-sort general-numeric-sort"
            " version-sort"
            " stable key= field-separator= ignore-case zero-terminated check month-sort"
            " ignore-leading-blanks dictionary-order"
        ),
    ),
    "uniq": Reader(
        flags="cdDiuz",
        valued="fsw",
        long=_long(
            "count repeated unique ignore-case skip-fields= skip-chars= check-chars="
        ),
        most=1,
    ),
    "tree": Reader(
        flags="adlfipqugsDhFtrvcUC",
        valued="LIP",
        long=_long("noreport dirsfirst filelimit= gitignore prune du si charset="),
    ),
    "fd": Reader(
        flags="HIuspLgFa10q",
        valued="deEtS",
        skipped=1,
        long=_long(
            "hidden no-ignore type= extension= exclude= max-depth= min-depth= glob"
            " full-path follow absolute-path case-sensitive ignore-case size= color="
        ),
    ),
    "file": Reader(flags="bihLNprsv0", long=_long("brief mime mime-type mime-encoding")),
    "jq": Reader(
        flags="rcSesnajCMR",
        skipped=1,
        long=_long(
            "raw-output compact-output sort-keys exit-status slurp null-input ascii-output"
            " join-output color-output monochrome-output raw-input tab indent="
        ),
    ),
    "column": Reader(flags="txn", valued="sco", long=_long("table separator= columns=")),
    "xxd": Reader(flags="bEipu", valued="cglos", long=frozenset(), most=1),
    "base64": Reader(flags="di", valued="w", long=_long("decode wrap= ignore-garbage")),
}

# Programs that say which version they are of, and do nothing else then. Some do more: go,
# cargo and yarn may first run another version of themselves that a repository names.
_VERSIONED = named(
    "python python3 pip pip3 node npm npx bun deno java javac gcc g++ clang make cmake ruff"
    " mypy black uv docker git bash kubectl terraform ruby perl php tsc gh curl jq rg"
)
_VERSION = frozenset({"--version", "-V", "--help"})

# What else is known to read: the program's first words, with any number of harmless flags.
_ASKING = (
    (("pip", "list"), "--format=columns --format=json --format=freeze -v"),
    (("pip", "freeze"), "--all"),
    (("pip", "show"), "-f --files *"),
    (("pip", "check"), ""),
    (("pip3", "list"), ""),
    (("pip3", "freeze"), ""),
    (("pip3", "show"), "*"),
    (("npm", "ls"), "--depth=0 --depth 0 -g --all *"),
    (("npm", "list"), "--depth=0 --depth 0 -g --all *"),
)

_LONGEST_SCRIPT = 2_000
_SED_OPTIONS = Reader(
    flags="nErsuz", valued="e", long=_long("quiet silent regexp-extended expression=")
)
_SED_ADDRESS = r"(?:[0-9]+|\$|/[^/\\\n]*/)"
_SED_COMMAND = re.compile(
    rf"\s*(?:{_SED_ADDRESS}(?:,\+?{_SED_ADDRESS})?)?!?"
    r"(?:[pdq=]|s([/|#,:@])(?:(?!\1)[^\\\n]|\\[^\n])*\1(?:(?!\1)[^\\\n]|\\[^\n])*\1[gpIi0-9]*)\s*"
)
_AWK_RUNS = re.compile(
    r"system|getline|@|\bprintf?\b.*>|(?<!\|)\|(?!\|)|\bclose\b|>>|\binclude\b", re.DOTALL
)


def only_reads(words: Sequence[Word], inside: Inside) -> tuple[bool, list[str]]:
    """Tell whether a program only reads, and which files.

    Args:
        words: Its words, the program's name first, without a folder.
        inside: Tells whether a path stays inside the roots.
    """
    name = words[0].text
    if (peculiar := _PECULIAR.get(name)) is not None:
        return peculiar(words, inside)
    if (reader := _READERS.get(name)) is not None:
        found = _arguments(reader, words, inside)
        return (False, []) if found is None else (True, found)
    if not all(word.plain for word in words):
        return False, []
    texts = tuple(word.text for word in words)
    if name in _VERSIONED and len(texts) == 2 and texts[1] in _VERSION:
        return True, []
    return _asks(texts), []


def _asks(texts: tuple[str, ...]) -> bool:
    for first, further in _ASKING:
        if texts[: len(first)] == first:
            allowed = further.split()
            return all(
                text in allowed or ("*" in allowed and not text.startswith("-"))
                for text in texts[len(first) :]
            )
    return False


def _arguments(reader: Reader, words: Sequence[Word], inside: Inside) -> list[str] | None:
    """Return the files that are read, or `None` if more than reading may happen."""
    files: list[Word] = []
    skipped = reader.skipped
    options = True
    at = 1
    while at < len(words):
        word = words[at]
        at += 1
        if not options or word.text == "-" or not word.text.startswith("-"):
            if not word.known and (reader.paths or reader.flags is not None):
                return None
            if (
                options
                and not word.plain
                and reader.flags is not None
                and word.pattern == 0
            ):
                return None  # a file's name may be an option
            files.append(word)
        elif word.text == "--" and word.plain:
            options = False
        else:
            if not word.plain and reader.paths:
                return None
            taken = _option(reader, word.text, inside)
            if taken is None:
                return None
            name, follows = taken
            if name in reader.instead:
                skipped = 0
            if follows:
                if at < len(words) and not _value_stays(reader, words[at], name, inside):
                    return None
                at += 1
    if not reader.paths:
        return []
    named = files[skipped:]
    if len(named) > reader.most or not all(inside(word) for word in named):
        return None
    return [word.text for word in named]


def _value_stays(reader: Reader, word: Word, option: str, inside: Inside) -> bool:
    """Tell whether an option's value, where it may be a file's name, stays inside."""
    return word.known and (option not in reader.named or inside(word))


def _option(reader: Reader, text: str, inside: Inside) -> tuple[str, bool] | None:
    """Return an option's name and whether a value follows it, or `None` if it may write."""
    if text.startswith("--"):
        name, given, value = text.partition("=")
        if (reader.long is None or name in reader.named) and not inside(Word(text=value)):
            return None
        if reader.long is None:
            return name, False
        if given:
            return (name, False) if f"{name}=" in reader.long else None
        if name in reader.long:
            return name, False
        return (name, True) if f"{name}=" in reader.long else None
    for at, letter in enumerate(text[1:], start=1):
        if letter in reader.valued:
            rest = text[at + 1 :]
            name = f"-{letter}"
            if name in reader.named and not inside(Word(text=rest)):
                return None
            return name, not rest
        if reader.flags is not None and letter not in reader.flags:
            return None
        if reader.flags is None and letter in "/~":
            return None
    return text[:2], False


def _printf(words: Sequence[Word], _inside: Inside) -> tuple[bool, list[str]]:
    """`printf -v` and `%n` set a variable, by a name in which something may run."""
    form = words[1] if len(words) > 1 else None
    if form is None or not form.known or form.text.startswith("-"):
        return False, []
    return re.search(r"%[^%A-Za-z]*n", form.text) is None, []


def _date(words: Sequence[Word], _inside: Inside) -> tuple[bool, list[str]]:
    """`date` sets the clock, if its argument is no format."""
    given = [word.text for word in words[1:]]
    if not all(word.known for word in words):
        return False, []
    if given[:1] in (["-d"], ["--date"]):
        given = given[2:]
    return all(
        re.fullmatch(r"\+.*|-u|-R|-I\w*|--utc|--date=.*", each) for each in given
    ), []


def _sed(words: Sequence[Word], inside: Inside) -> tuple[bool, list[str]]:
    scripts: list[str] = []
    rest: list[Word] = [words[0]]
    at = 1
    while at < len(words):
        word = words[at]
        if word.text in ("-e", "--expression") and at + 1 < len(words):
            at += 1
            scripts.append(words[at].text if words[at].known else "?")
        elif word.text.startswith("--expression="):
            scripts.append(word.text.partition("=")[2])
        elif word.text.startswith("-") and "e" in word.text[1:] and word.text[1:2] != "-":
            return False, []
        else:
            rest.append(word)
        at += 1
    if not scripts:
        first = next((i for i, word in enumerate(rest[1:], 1) if word.text[:1] != "-"), 0)
        if not first or not rest[first].known:
            return False, []
        scripts.append(rest.pop(first).text)
    if not all(sed_only_prints(script) for script in scripts):
        return False, []
    found = _arguments(_SED_OPTIONS, rest, inside)
    return (False, []) if found is None else (True, found)


def sed_only_prints(script: str) -> bool:
    """Tell whether a script of sed is known to do nothing but print."""
    at = 0
    while at < len(script):
        match = _SED_COMMAND.match(script, at)
        if match is None or len(script) > _LONGEST_SCRIPT:
            return False
        at = match.end()
        if at < len(script):
            if script[at] not in ";\n":
                return False
            at += 1
    return True


def _awk(words: Sequence[Word], inside: Inside) -> tuple[bool, list[str]]:
    at = 1
    while at < len(words) and words[at].text[:2] in ("-F", "-v"):
        at += 2 if len(words[at].text) == 2 else 1
    if at >= len(words) or not all(word.known for word in words):
        return False, []
    program = words[at].text
    if not awk_only_prints(program):
        return False, []
    files = words[at + 1 :]
    if any(word.text.startswith("-") and word.text != "-" for word in files):
        return False, []
    if not all(inside(word) for word in files):
        return False, []
    return True, [word.text for word in files]


def awk_only_prints(program: str) -> bool:
    """Tell whether a program of awk is known to do nothing but print."""
    return (
        len(program) <= _LONGEST_SCRIPT
        and not program.startswith("-")
        and _AWK_RUNS.search(program) is None
    )


def _tar(words: Sequence[Word], inside: Inside) -> tuple[bool, list[str]]:
    """Only a listing of one archive in a file is known to read."""
    if len(words) != 3 or not all(word.plain for word in words):
        return False, []
    listing = re.fullmatch(r"-?(?:t[vzjJ]*f|[vzjJ]*t[vzjJ]*f)", words[1].text)
    archive = words[2]
    if listing is None or ":" in archive.text or archive.text.startswith("-"):
        return False, []
    return inside(archive), [archive.text]


_FIND_TESTS = named(
    "-name -iname -path -ipath -wholename -regex -iregex -type -maxdepth -mindepth -size"
    " -mtime -mmin -atime -amin -ctime -cmin -perm -user -group -links -newermt -regextype"
    " -xtype -printf -lname -ilname"
)
_FIND_WORDS = named(
    "-o -or -a -and -not ! ( ) , -print -print0 -ls -prune -empty -readable -writable"
    " -executable -depth -d -xdev -mount -true -false -quit -nouser -nogroup -daystart"
    " -follow -L -P -H -E"
)


def _find(words: Sequence[Word], inside: Inside) -> tuple[bool, list[str]]:
    files: list[str] = []
    at = 1
    while at < len(words):
        word = words[at]
        at += 1
        if not word.known:
            return False, []
        if word.text in _FIND_TESTS:
            at += 1
        elif word.text in ("-newer", "-samefile", "-anewer", "-cnewer"):
            if at >= len(words) or not inside(words[at]):
                return False, []
            at += 1
        elif word.text in _FIND_WORDS:
            continue
        elif word.text.startswith("-") or word.pattern == 0 or not inside(word):
            return False, []
        else:
            files.append(word.text)
    return True, files


_PECULIAR: Mapping[str, Callable[[Sequence[Word], Inside], tuple[bool, list[str]]]] = {
    "sed": _sed,
    "awk": _awk,
    "gawk": _awk,
    "mawk": _awk,
    "tar": _tar,
    "date": _date,
    "printf": _printf,
    "find": _find,
}
