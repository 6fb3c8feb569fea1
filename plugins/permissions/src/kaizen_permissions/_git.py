"""What git does without changing anything.

Git's own subcommands cannot be replaced by aliases, so what is not listed here is either
one that writes or an alias, which may run anything. An option before the subcommand may
configure a program to be run; none but a few are listed. What a repository's own
configuration makes git run is looked at as well: see `_repositories`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from posixpath import join
from typing import TYPE_CHECKING

from kaizen_permissions._readers import Found
from kaizen_permissions._words import Word, named

if TYPE_CHECKING:
    from kaizen_permissions._places import Reach

__all__ = [
    "folder_of_git",
    "git_only_reads",
    "keeps_files",
    "scripts_of_git",
    "subcommand",
]

# Options of `git log` and its kin that run a program or write a file; git understands them
# shortened, too.
_HARMFUL = (
    *("--ext-diff", "--output", "--open-files-in-pager", "--textconv", "--filters"),
    *("--submodule", "--recurse-submodules", "--show-signature"),
)
_SHOWING = named(
    "status log diff show rev-parse ls-files ls-tree cat-file blame annotate describe"
    " shortlog merge-base rev-list name-rev for-each-ref show-ref diff-tree diff-index"
    " diff-files whatchanged count-objects check-ignore grep cherry range-diff version"
    " check-attr show-branch"
)
# What leaves all files of a work tree as they are, whatever it does beside that.
_KEEPING = _SHOWING | named(
    "add stage commit fetch push branch tag remote config notes reflog gc prune fsck init"
    " repack maintenance update-index update-ref symbolic-ref ls-remote verify-commit"
    " verify-tag hash-object write-tree commit-tree help var"
)
_LISTING = {
    "branch": re.compile(
        r"-[arv]+|--(all|remotes|list|verbose|show-current|ignore-case|no-color|no-column"
        r"|(contains|no-contains|merged|no-merged|sort|format|points-at|color|column)=.*)"
    ),
    "tag": re.compile(
        r"-n[0-9]*|-i|--(list|ignore-case|no-column|(contains|merged|no-merged|sort|format"
        r"|points-at|color|column)=.*)"
    ),
    "remote": re.compile(r"-v|--verbose"),
    "worktree": re.compile(r"list|--porcelain|-v"),
    "reflog": re.compile(r"show|-[0-9]+|HEAD|--oneline|--all|-n[0-9]+|--date=[a-z]+"),
    "submodule": re.compile(r"status|--recursive"),
    "notes": re.compile(r"list|show"),
    "bisect": re.compile(r"log"),
    "lfs": re.compile(r"ls-files"),
}
_FILTERED = re.compile(
    r"-l|--list|--contains|--merged|--no-merged|--no-contains|--points-at"
)
_CONFIG_SCOPE = re.compile(
    r"--(global|local|system|worktree|show-origin|show-scope|name-only|null|includes)|-z"
)
_CONFIG_ASKS = frozenset({"--get", "--get-all", "--get-regexp", "get"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def git_only_reads(words: Sequence[Word], reach: Reach) -> Found:
    """Return the files that a command of git reads, or `None` if it may do more.

    It reads the configuration of the repository that it finds, and runs what stands there.
    So it has to find one that nobody but its owner can have made, and that sets nothing of
    that kind.
    """
    at = _subcommand(words, reach)
    if at is None or not all(word.known and not word.several for word in words[at:]):
        return None
    folder = folder_of_git(words)
    if not words[at].plain or not reach.repository(folder):
        return None
    if not reach.git_runs_nothing(folder):
        return None
    name, rest = words[at].text, words[at + 1 :]
    texts = [word.text for word in rest]
    if name in _SHOWING:
        return _shows(name, rest, reach)
    if name == "stash" and texts[:1] in (["show"], ["list"]):
        return _shows(name, rest[1:], reach)
    if not all(word.plain for word in rest):
        return None
    return [] if _only_lists(name, texts) else None


def _only_lists(name: str, texts: Sequence[str]) -> bool:
    if name == "config":
        return _config(texts)
    if name == "remote" and texts[:1] == ["get-url"]:
        return all(_NAME.fullmatch(text) for text in texts[1:])
    if name in ("branch", "tag"):
        return _lists(name, texts)
    pattern = _LISTING.get(name)
    if pattern is None or (not texts and name not in ("remote", "reflog", "submodule")):
        return False
    return all(pattern.fullmatch(text) for text in texts)


def subcommand(argv: Sequence[str]) -> int:
    """Return where the subcommand stands, or where the words end if there is none."""
    at = 1
    while at < len(argv) and argv[at].startswith("-"):
        at += 2 if argv[at] in _VALUED else 1
    return min(at, len(argv))


def keeps_files(argv: Sequence[str]) -> bool:
    """Tell whether a command of git changes no file but those that it is given, if any."""
    at = subcommand(argv)
    name = argv[at] if at < len(argv) else "help"
    return name in _KEEPING or (name, *argv[at + 1 : at + 2]) in _STASHED


def folder_of_git(words: Sequence[Word]) -> str:
    """Return the folder in which git looks for a repository, from where it starts."""
    end = subcommand([word.text for word in words])
    folders = [words[at + 1].text for at in range(1, end - 1) if words[at].text == "-C"]
    return join("", *folders)


def scripts_of_git(words: Sequence[Word]) -> list[Sequence[Word]]:
    """Return the words of each script that a command of git is given to run."""
    argv = [word.text for word in words]
    at = subcommand(argv)
    name, rest = (argv[at] if at < len(argv) else ""), words[at + 1 :]
    if (name, argv[at + 1 : at + 2]) == ("bisect", ["run"]):
        return [rest[1:]] if rest[1:] else []
    if name == "submodule" and "foreach" in argv[at:]:
        further = words[argv.index("foreach", at) + 1 :]
        while further and further[0].text.startswith("-"):
            further = further[1:]
        return [further] if further else []
    if name == "rebase":
        return _values(rest, re.compile(r"(?s)--e(?:x(?:ec?)?)?(?:=(.*))?|-[a-z]*x(.*)"))
    if name == "filter-branch":
        return _values(rest, re.compile(r"(?s)--[a-z]+-filter(?:=(.*))?|--setup(?:=(.*))?"))
    return []


def _values(words: Sequence[Word], option: re.Pattern[str]) -> list[Sequence[Word]]:
    found: list[Sequence[Word]] = []
    for at, word in enumerate(words):
        if (match := option.fullmatch(word.text)) is None:
            continue
        value = match[1] or match[2]
        if value:
            found.append([replace(word, text=value)])
        elif at + 1 < len(words):
            found.append([words[at + 1]])
    return found


_STASHED = {("stash", "list"), ("stash", "show")}
_VALUED = named("-C -c --git-dir --work-tree --namespace --exec-path --config-env")


def _subcommand(words: Sequence[Word], reach: Reach) -> int | None:
    """Return where the subcommand stands, if only harmless options come before it."""
    at = 1
    while at < len(words):
        word = words[at]
        if word.text == "-C" and word.plain:
            if at + 1 >= len(words) or not words[at + 1].plain or not reach(words[at + 1]):
                return None
            at += 2
        elif word.text in (
            "--no-pager",
            "-P",
            "--no-optional-locks",
            "--literal-pathspecs",
        ):
            at += 1
        else:
            return None if word.text.startswith("-") else at
    return None


def _shows(name: str, words: Sequence[Word], reach: Reach) -> Found:
    files: list[Word] = []
    options = True
    for word in words:
        text = word.text
        if options and text == "--":
            options = False
        elif options and word.pattern == 0:
            return None
        elif options and text.startswith("-"):
            if not word.plain or _is_harmful(name, text):
                return None
            value = text.partition("=")[2] if text.startswith("--") else text[2:]
            if value and not text.startswith(_TEXTS) and not reach(Word(text=value)):
                return None
        elif not reach(word):
            return None
        else:
            files += [word, *_in_commit(word)]
    return [*files, Word(text=".")] if name == "grep" else files


def _in_commit(word: Word) -> list[Word]:
    """Return the file of `HEAD:file`."""
    _, colon, path = word.text.partition(":")
    return [Word(text=path)] if colon and path else []


_TEXTS = (
    *("--format=", "--pretty=", "--grep=", "--author=", "--since=", "--until=", "--date="),
    *("-S", "-G", "-L"),
)


def _is_harmful(name: str, text: str) -> bool:
    if text.startswith("--"):
        option = text.partition("=")[0]
        return any(harmful.startswith(option) for harmful in _HARMFUL)
    # `-O` names a pager for `grep`, and a file that orders a diff for the others.
    return "O" in text or (name == "cat-file" and not re.fullmatch(r"-[tspe]", text))


def _lists(name: str, texts: Sequence[str]) -> bool:
    pattern = _LISTING[name]
    filtered = any(_FILTERED.fullmatch(text) for text in texts)
    return all(
        (filtered and not text.startswith("-"))
        or _FILTERED.fullmatch(text) is not None
        or pattern.fullmatch(text) is not None
        for text in texts
    )


def _config(texts: Sequence[str]) -> bool:
    rest = [text for text in texts if not _CONFIG_SCOPE.fullmatch(text)]
    if rest in (["--list"], ["-l"], ["list"]):
        return True
    if len(rest) == 2 and rest[0] in _CONFIG_ASKS:
        return not rest[1].startswith("-")
    return (
        len(rest) == 1
        and re.fullmatch(r"[A-Za-z0-9-]+\.[A-Za-z0-9.-]+", rest[0]) is not None
    )
