"""Programs that only read, and the options with which that stays so.

What is not listed here may do anything, and so may an option that is not listed for its
program. Where a program looks for a script, an option or an option's value, and where it
counts its words, only a word that is known as it stands is taken: one that may become
several words, none, or the name of a file that matches could be anything there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from kaizen_permissions._words import Word, named

if TYPE_CHECKING:
    from kaizen_permissions._places import Reach

__all__ = ["Found", "awk_only_prints", "is_reader", "only_reads", "sed_only_prints"]

Found: TypeAlias = list[Word] | None
"""The files that a program reads, or `None` if it may do more than reading."""

_MANY = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """What a program may be given and still only read.

    Attributes:
        flags: Letters of options without a value.
        valued: Letters of options with a value.
        long: Long options without a value, and with one as `name=`.
        whole: Options that are understood as they stand, and not as letters.
        texts: Options whose value is no file.
        named: Options whose value is a file that is read.
        any: Whatever it is given, it reads no file and changes nothing.
        skipped: How many arguments that are no files come first.
        instead: Options that take the place of the skipped argument.
        most: Most arguments.
        globs: No option that a file could be named like names another file.
        paths: Whether its arguments are files.
        lists: It shows no more of a folder than names.
        here: Options with which it reads what is in the folder that it starts in, if it is
            given no file; an empty one if it does so in any case.
    """

    flags: str = ""
    valued: str = ""
    long: frozenset[str] = frozenset()
    whole: Mapping[str, bool] | None = None
    texts: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    any: bool = False
    skipped: int = 0
    instead: frozenset[str] = frozenset()
    most: int = _MANY
    globs: bool = False
    paths: bool = True
    lists: bool = False
    here: frozenset[str] = frozenset()


def _long(names: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in names.split())


_ANYTHING = Reader(any=True)
_DIGITS = "0123456789"
_GREP = Reader(
    flags="EFGPivwxycLlqosbHhnTUuzarI" + _DIGITS,
    valued="ABCmefdD",
    skipped=1,
    instead=frozenset({"-e", "-f", "--regexp", "--file"}),
    named=frozenset({"-f", "--file", "--exclude-from"}),
    texts=frozenset(
        {"-e", "--regexp", "--include", "--exclude", "--exclude-dir", "--label"}
    ),
    here=frozenset({"-r", "--recursive"}),
    long=_long(
        "after-context= before-context= context= max-count= regexp= file= include= exclude="
        " exclude-dir= exclude-from= color colour color= colour= count extended-regexp"
        " fixed-strings basic-regexp perl-regexp ignore-case no-ignore-case invert-match"
        " word-regexp line-regexp files-with-matches files-without-match only-matching"
        " quiet silent no-messages byte-offset with-filename no-filename label= line-number"
        " initial-tab null text binary-files= recursive line-buffered null-data version"
        " help directories= devices="
    ),
)
_RG = Reader(
    flags="aiIvwxclnNopqsSuUFHP.0h",
    valued="ABCegtTmMjfrEd",
    skipped=1,
    instead=frozenset({"-e", "-f", "--regexp", "--file", "--files", "--type-list"}),
    named=frozenset({"-f", "--file"}),
    texts=frozenset({"-e", "-g", "-r", "--regexp", "--glob", "--iglob", "--replace"}),
    here=frozenset({""}),
    long=_long(
        "after-context= before-context= context= max-count= regexp= file= glob= iglob="
        " type= type-not= max-depth= max-columns= color= colors= sort= sortr= replace="
        " threads= encoding= files type-list hidden no-ignore no-ignore-vcs no-heading"
        " heading count count-matches files-with-matches files-without-match fixed-strings"
        " ignore-case smart-case case-sensitive invert-match line-number no-line-number"
        " only-matching multiline multiline-dotall pcre2 json quiet stats text trim vimgrep"
        " with-filename no-filename word-regexp line-regexp null passthru version help"
        " column no-messages no-config unrestricted pretty line-buffered"
    ),
)
_CHECKSUM = Reader(flags="btz", long=_long("binary tag text zero quiet status"), globs=True)
_READERS: Mapping[str, Reader] = {
    **dict.fromkeys(
        named(
            "echo true false : basename dirname seq sleep pwd id whoami uname nproc groups"
            " uptime free tty exit return break continue shift times expr numfmt tr"
            " getconf locale cal which type"
        ),
        _ANYTHING,
    ),
    **dict.fromkeys(
        named("md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum cksum"),
        _CHECKSUM,
    ),
    "grep": _GREP,
    "egrep": _GREP,
    "fgrep": _GREP,
    "rg": _RG,
    "ls": Reader(
        flags="aAbBcCdfFgGhiklmnNopqQrRsStuUvxXZ1",
        valued="ITw",
        globs=True,
        lists=True,
        texts=frozenset({"-I", "--ignore", "--hide"}),
        long=_long(
            "all almost-all author escape directory classify classify= color color="
            " file-type full-time group-directories-first no-group human-readable si inode"
            " ignore= hide= indicator-style= literal numeric-uid-gid reverse recursive size"
            " sort= time= time-style= width= zero help version"
        ),
    ),
    "cat": Reader(
        flags="AbeEnstTuv",
        globs=True,
        long=_long("show-all number-nonblank show-ends number squeeze-blank show-tabs"),
    ),
    "head": Reader(
        flags="qvz" + _DIGITS,
        valued="nc",
        globs=True,
        long=_long("lines= bytes= quiet silent verbose zero-terminated"),
    ),
    "tail": Reader(
        flags="fFqvzr" + _DIGITS,
        valued="ncs",
        globs=True,
        long=_long("lines= bytes= follow follow= quiet silent verbose retry pid="),
    ),
    "wc": Reader(
        flags="clLmw", long=_long("lines words chars bytes max-line-length total=")
    ),
    "nl": Reader(flags="p", valued="bdfhilnsvw"),
    "tac": Reader(flags="br", valued="s", texts=frozenset({"-s"})),
    "rev": Reader(),
    "comm": Reader(flags="123iz", long=_long("check-order nocheck-order total"), most=2),
    "paste": Reader(
        flags="sz", valued="d", long=_long("delimiters= serial"), texts=frozenset({"-d"})
    ),
    "join": Reader(flags="iz", valued="12aejotv", most=2, texts=frozenset({"-t", "-o"})),
    "fold": Reader(flags="bs" + _DIGITS, valued="w", long=_long("width= spaces bytes")),
    "expand": Reader(flags="i", valued="t", long=_long("tabs= initial")),
    "unexpand": Reader(flags="a", valued="t", long=_long("tabs= all first-only")),
    "cmp": Reader(
        flags="bls", valued="in", long=_long("print-bytes silent quiet verbose"), most=4
    ),
    "stat": Reader(
        flags="ftLx",
        valued="c",
        globs=True,
        lists=True,
        texts=frozenset({"-c", "--format", "--printf"}),
        long=_long("format= printf= terse file-system dereference"),
    ),
    "du": Reader(
        flags="abchklmsSx0",
        valued="dBt",
        globs=True,
        lists=True,
        texts=frozenset({"--exclude"}),
        long=_long(
            "all apparent-size bytes total human-readable summarize max-depth= si"
            " separate-dirs one-file-system threshold= exclude= time inodes"
        ),
    ),
    "df": Reader(
        flags="ahHiklmPT", valued="txB", lists=True, long=_long("human-readable total si")
    ),
    "realpath": Reader(
        flags="emLPqsz",
        lists=True,
        long=_long("relative-to= relative-base= canonicalize-existing quiet no-symlinks"),
    ),
    "readlink": Reader(flags="femnqsvz", lists=True, long=_long("canonicalize")),
    "od": Reader(flags="abcdfhiloxsv", valued="AjNtw"),
    "hexdump": Reader(flags="bcCdovx", valued="ns"),
    "strings": Reader(flags="afow", valued="nte", long=_long("all bytes= radix=")),
    "diff": Reader(
        flags="abBcdeEhHinNpqstTuwyZ" + _DIGITS,
        valued="CUWxFIL",
        most=2,
        texts=frozenset({"-x", "-F", "-I", "-L", "--exclude", "--label"}),
        named=frozenset({"--from-file", "--to-file"}),
        long=_long(
            "brief unified unified= context context= side-by-side width= ignore-case"
            " suppress-common-lines ignore-all-space ignore-space-change text minimal"
            " ignore-blank-lines color color= strip-trailing-cr report-identical-files"
            " exclude= label= normal"
            " from-file= to-file= new-file ignore-trailing-space speed-large-files"
        ),
    ),
    "fmt": Reader(flags="cstu", valued="w", long=_long("width=")),
    "tsort": Reader(),
    "zcat": Reader(),
    "wait": Reader(flags="fn", paths=False),
    "jobs": Reader(flags="lnprs", paths=False),
    "cut": Reader(
        flags="sz",
        valued="dfbc",
        long=_long("delimiter= fields= characters= bytes= only-delimited complement"),
        texts=frozenset({"-d", "--delimiter"}),
    ),
    "sort": Reader(
        flags="bdfghiMnRrVcCmsuz",
        valued="ktS",
        texts=frozenset({"-t", "--field-separator"}),
        long=_long(
            "reverse unique numeric-sort human-numeric-sort general-numeric-sort"
            " version-sort stable key= field-separator= ignore-case zero-terminated check"
            " month-sort ignore-leading-blanks dictionary-order"
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
        whole={
            **{f"-{letter}": False for letter in "adfipqugsDhFtrvcUC"},
            **{f"-{letter}": True for letter in "LIP"},
        },
        texts=frozenset({"-I", "-P"}),
        lists=True,
        long=_long("noreport dirsfirst filelimit= gitignore prune du si charset="),
    ),
    "fd": Reader(
        flags="HIuspgFa10q",
        valued="deEtS",
        skipped=1,
        lists=True,
        texts=frozenset({"-E", "--exclude"}),
        long=_long(
            "hidden no-ignore type= extension= exclude= max-depth= min-depth= glob"
            " full-path absolute-path case-sensitive ignore-case size= color="
        ),
    ),
    "file": Reader(flags="bihNnrv0", long=_long("brief mime mime-type mime-encoding")),
    "column": Reader(
        flags="txn",
        valued="sco",
        texts=frozenset({"-s", "-o", "--separator"}),
        long=_long("table separator= columns="),
    ),
    "xxd": Reader(
        whole={
            **{
                f"-{name}": False
                for name in ["a", "b", "e", "E", "i", "p", "u", "ps", "plain", "postscript"]
            },
            **{f"-{name}": True for name in ["c", "g", "l", "o", "s", "n"]},
        },
        most=1,
    ),
    "base64": Reader(flags="di", valued="w", long=_long("decode wrap= ignore-garbage")),
}
_JQ = Reader(
    flags="rcSesnajCMR",
    skipped=1,
    long=_long(
        "raw-output compact-output sort-keys exit-status slurp null-input ascii-output"
        " join-output color-output monochrome-output raw-input tab indent="
    ),
)
_JQ_REACHES = re.compile(
    r"\b(import|include|env|ENV|modulemeta|get_search_list|input_filename|\$__)\b"
)

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
_SED_OPTIONS = Reader(flags="nErsuz", long=_long("quiet silent regexp-extended posix"))
_SED_ADDRESS = r"(?:[0-9]+|\$|/[^/\\\n]*/)"
_SED_COMMAND = re.compile(
    rf"\s*(?:{_SED_ADDRESS}(?:,\+?{_SED_ADDRESS})?)?!?"
    r"(?:[pdq=]|s([/|#,:@])(?:(?!\1)[^\\\n]|\\[^\n])*\1(?:(?!\1)[^\\\n]|\\[^\n])*\1[gpIi0-9]*)\s*"
)
_AWK_RUNS = re.compile(
    r"system|getline|@|\bprintf?\b.*>|(?<!\|)\|(?!\|)|\bclose\b|>>|\binclude\b"
    r"|\\\n|ARG[CV]|ENVIRON|PROCINFO|SYMTAB|FUNCTAB|\bextension\b",
    re.DOTALL,
)


def only_reads(words: Sequence[Word], reach: Reach) -> Found:
    """Return the files that a program reads, or `None` if it may do more.

    Args:
        words: Its words, the program's name first, without a folder.
        reach: Tells whether a path stays inside the roots.
    """
    name = words[0].text
    if (peculiar := _PECULIAR.get(name)) is not None:
        return peculiar(words, reach)
    if (reader := _READERS.get(name)) is not None:
        return _arguments(reader, words, reach)
    if not all(word.plain for word in words):
        return None
    texts = tuple(word.text for word in words)
    if name in _VERSIONED and len(texts) == 2 and texts[1] in _VERSION:
        return []
    return [] if _asks(texts) else None


def is_reader(name: str) -> bool:
    """Tell whether a program is there to read files."""
    reader = _READERS.get(name)
    return name in _PECULIAR or (reader is not None and not reader.any)


def _asks(texts: tuple[str, ...]) -> bool:
    for first, further in _ASKING:
        if texts[: len(first)] == first:
            allowed = further.split()
            return all(
                text in allowed or ("*" in allowed and not text.startswith("-"))
                for text in texts[len(first) :]
            )
    return False


def _names_inside(words: Sequence[Word], reach: Reach) -> bool:
    """Tell whether patterns match no names of files outside the roots."""
    return all(word.pattern < 0 or not word.known or reach(word) for word in words)


@dataclass(slots=True)
class _Given:
    """What a program is given: its arguments, and the options with their values."""

    arguments: list[Word]
    options: list[tuple[str, Word | None]]

    def has(self, names: frozenset[str]) -> bool:
        return any(name in names for name, _ in self.options)


def _arguments(reader: Reader, words: Sequence[Word], reach: Reach) -> Found:
    """Return the files that are read, or `None` if more than reading may happen."""
    if reader.any:
        return [] if _names_inside(words, reach) else None
    given = _given(reader, words)
    if given is None:
        return None
    read: list[Word] = []
    for name, value in given.options:
        if value is None or name in reader.texts:
            continue
        if not reach(value):
            return None
        if name in reader.named:
            read.append(value)
    skipped = 0 if given.has(reader.instead) else reader.skipped
    first, files = given.arguments[:skipped], given.arguments[skipped:]
    if not all(word.plain for word in first) or len(files) > reader.most:
        return None
    if not reader.paths:
        return [] if all(word.plain for word in files) else None
    if not all(_is_file(reader, word) and reach(word) for word in files):
        return None
    if reader.lists:
        return [word for word in files if not reach.is_folder(word)]
    if not files and (reader.here == {""} or given.has(reader.here)):
        return [*read, Word(text=".")]
    return [*read, *files]


def _is_file(reader: Reader, word: Word) -> bool:
    """Tell whether a word can be nothing but files, as many as a program may be given."""
    if word.pattern < 0:
        return not word.several
    return reader.most == _MANY and (word.pattern > 0 or reader.globs)


def _given(reader: Reader, words: Sequence[Word]) -> _Given | None:
    """Tell a program's options from its arguments; `None` if one is not known."""
    given = _Given([], [])
    at = 1
    while at < len(words):
        word = words[at]
        at += 1
        if word.text == "-" or not word.text.startswith("-"):
            if not word.known:
                return None
            given.arguments.append(word)
            continue
        if not word.plain or (given.arguments and reader.most == 1):
            return None  # after the one file that is read comes one that is written
        if word.text == "--":
            if not all(each.known for each in words[at:]):
                return None
            given.arguments += [_after_options(each) for each in words[at:]]
            break
        options = _option(reader, word.text)
        if options is None:
            return None
        name, value = options[-1]
        if value is not None and not value.text and "=" not in word.text:
            if at >= len(words) or not words[at].plain:
                return None
            options[-1] = name, words[at]
            at += 1
        given.options += options
    return given


def _after_options(word: Word) -> Word:
    """Return a word that cannot be an option any more, and says so to who looks for one."""
    if word.pattern != 0:
        return word
    return replace(word, text=f"./{word.text}", pattern=2)


def _option(reader: Reader, text: str) -> list[tuple[str, Word | None]] | None:
    """Return the options in a word, each with its value, which is empty if it follows."""
    name, given, value = text.partition("=")
    if text.startswith("--"):
        if f"{name}=" in reader.long and (given or name not in reader.long):
            return [(name, Word(text=value))]
        return [(name, None)] if name in reader.long and not given else None
    if reader.whole is not None:
        if text not in reader.whole:
            return None
        return [(text, Word(text="") if reader.whole[text] else None)]
    found: list[tuple[str, Word | None]] = []
    for at, letter in enumerate(text[1:], start=1):
        if letter in reader.valued:
            return [*found, (f"-{letter}", Word(text=text[at + 1 :]))]
        if letter not in reader.flags:
            return None
        found.append((f"-{letter}", None))
    return found


def _printf(words: Sequence[Word], reach: Reach) -> Found:
    """`printf -v` and `%n` set a variable, by a name in which something may run."""
    form = words[1] if len(words) > 1 else None
    if form is None or not form.plain or form.text.startswith("-"):
        return None
    harmless = re.search(r"%[^%A-Za-z]*n", form.text) is None
    return [] if harmless and _names_inside(words, reach) else None


def _date(words: Sequence[Word], _reach: Reach) -> Found:
    """`date` sets the clock, if its argument is no format."""
    given = [word.text for word in words[1:]]
    if not all(word.plain for word in words):
        return None
    if given[:1] in (["-d"], ["--date"]):
        given = given[2:]
    known = re.compile(r"\+.*|-u|-R|-I\w*|--utc|--date=.*", re.DOTALL)
    return [] if all(map(known.fullmatch, given)) else None


_PS = re.compile(r"auxf?w{0,2}|axf?|-e?f|-A|-a|-p|[0-9]+")


def _ps(words: Sequence[Word], _reach: Reach) -> Found:
    """`ps` shows what other programs have in their environment, if it is told so."""
    if not all(word.plain and _PS.fullmatch(word.text) for word in words[1:]):
        return None
    return []


def _diff(words: Sequence[Word], reach: Reach) -> Found:
    """Between two folders, `diff` follows links that lead out of them."""
    found = _arguments(_READERS["diff"], words, reach)
    return None if found is None or any(map(reach.is_folder, found)) else found


def _jq(words: Sequence[Word], reach: Reach) -> Found:
    """A program of `jq` may load others, and read the environment."""
    given = _given(_JQ, words)
    if given is None or any(_JQ_REACHES.search(w.text) for w in given.arguments[:1]):
        return None
    return _arguments(_JQ, words, reach)


def _sed(words: Sequence[Word], reach: Reach) -> Found:
    scripts: list[Word] = []
    rest: list[Word] = [words[0]]
    at = 1
    while at < len(words):
        word = words[at]
        at += 1
        if word.text in ("-e", "--expression"):
            if at >= len(words):
                return None
            scripts.append(words[at])
            at += 1
        elif word.text.startswith("--expression="):
            scripts.append(replace(word, text=word.text.partition("=")[2]))
        else:
            rest.append(word)
    if not scripts:
        first = next((i for i, word in enumerate(rest[1:], 1) if word.text[:1] != "-"), 0)
        if not first:
            return None
        scripts.append(rest.pop(first))
    if not all(script.plain and sed_only_prints(script.text) for script in scripts):
        return None
    return _arguments(_SED_OPTIONS, rest, reach)


def sed_only_prints(script: str) -> bool:
    """Tell whether a script of sed is known to do nothing but print."""
    at = 0
    while at < len(script):
        match = _SED_COMMAND.match(script, at)
        if match is None or len(script) > _LONGEST_SCRIPT:
            return False
        delimiter = re.escape(match[1] or "/")
        if re.search(rf"\[\^?\]|\[[^\]{delimiter}]*{delimiter}", match[0]):
            return False  # not every sed takes this for the end of a bracket
        at = match.end()
        if at < len(script):
            if script[at] not in ";\n":
                return False
            at += 1
    return True


def _awk(words: Sequence[Word], reach: Reach) -> Found:
    at = 1
    while at < len(words) and words[at].text[:2] in ("-F", "-v"):
        at += 2 if len(words[at].text) == 2 else 1
    before, files = words[: at + 1], words[at + 1 :]
    if at >= len(words) or not all(word.plain for word in before):
        return None
    if not awk_only_prints(words[at].text):
        return None
    if any(word.text.startswith("-") and word.text != "-" for word in files):
        return None
    return list(files) if all(map(reach, files)) else None


def awk_only_prints(program: str) -> bool:
    """Tell whether a program of awk is known to do nothing but print."""
    return (
        len(program) <= _LONGEST_SCRIPT
        and not program.startswith("-")
        and _AWK_RUNS.search(program) is None
    )


def _tar(words: Sequence[Word], reach: Reach) -> Found:
    """Only a listing of one archive in a file is known to read."""
    if len(words) != 3 or not all(word.plain for word in words):
        return None
    listing = re.fullmatch(r"-?(?:t[vzjJ]*f|[vzjJ]*t[vzjJ]*f)", words[1].text)
    archive = words[2]
    if listing is None or ":" in archive.text or archive.text.startswith("-"):
        return None
    return [archive] if reach(archive) else None


_FIND_TESTS = named(
    "-name -iname -path -ipath -wholename -regex -iregex -type -maxdepth -mindepth -size"
    " -mtime -mmin -atime -amin -ctime -cmin -perm -user -group -links -newermt -regextype"
    " -xtype -printf -lname -ilname"
)
_FIND_FILES = named("-newer -samefile -anewer -cnewer")
_FIND_WORDS = named(
    "-o -or -a -and -not ! ( ) , -print -print0 -ls -prune -empty -readable -writable"
    " -executable -depth -d -xdev -mount -true -false -quit -nouser -nogroup -daystart"
    " -P -E"
)


def _find(words: Sequence[Word], reach: Reach) -> Found:
    """A search is known if each of its words is, and so is what each is there for."""
    at = 1
    while at < len(words) and (not words[at].text or words[at].text[0] not in "-(!,"):
        if words[at].pattern == 0 or words[at].several or not reach(words[at]):
            return None
        at += 1
    files = words[1:at]
    while at < len(words):
        word = words[at]
        at += 1
        if not word.plain or word.text not in _FIND_TESTS | _FIND_FILES | _FIND_WORDS:
            return None
        if word.text in _FIND_WORDS:
            continue
        if at >= len(words) or not words[at].plain:
            return None
        if word.text in _FIND_FILES and not reach(words[at]):
            return None
        at += 1
    return [word for word in files if not reach.is_folder(word)]


_PECULIAR: Mapping[str, Callable[[Sequence[Word], Reach], Found]] = {
    "sed": _sed,
    "awk": _awk,
    "gawk": _awk,
    "mawk": _awk,
    "tar": _tar,
    "date": _date,
    "printf": _printf,
    "find": _find,
    "ps": _ps,
    "diff": _diff,
    "jq": _jq,
}
