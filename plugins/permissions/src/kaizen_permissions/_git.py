"""What git does without changing anything.

Git's own subcommands cannot be replaced by aliases, so what is not listed here is either
one that writes or an alias, which may run anything. An option before the subcommand may
configure a program to be run; none but a few are listed. What a repository's own
configuration makes git run is beyond this: only confinement helps there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kaizen_permissions._readers import Inside
from kaizen_permissions._words import Word, named

__all__ = ["git_only_reads"]

# Options of `git log` and its kin that run a program or write a file; git understands them
# shortened, too.
_HARMFUL = ("--ext-diff", "--output", "--open-files-in-pager", "--textconv", "--filters")
_SHOWING = named(
    "status log diff show rev-parse ls-files ls-tree cat-file blame annotate describe"
    " shortlog merge-base rev-list name-rev for-each-ref show-ref diff-tree diff-index"
    " diff-files whatchanged count-objects check-ignore grep cherry range-diff version"
    " check-attr show-branch"
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
    "stash": re.compile(r"list"),
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


def git_only_reads(words: Sequence[Word], inside: Inside) -> tuple[bool, list[str]]:
    """Tell whether a command of git only reads, and which files."""
    at = _subcommand(words, inside)
    if at is None or not words[at].plain:
        return False, []
    name, rest = words[at].text, words[at + 1 :]
    if not all(word.known for word in rest):
        return False, []
    texts = [word.text for word in rest]
    if name in _SHOWING:
        return _shows(name, rest, inside)
    if name == "config":
        return _config(texts), []
    if name == "stash" and texts[:1] == ["show"]:
        return _shows(name, rest[1:], inside)
    if name == "remote" and texts[:1] == ["get-url"]:
        return all(_NAME.fullmatch(text) for text in texts[1:]), []
    if name in ("branch", "tag"):
        return _lists(name, texts), []
    if name == "stash":
        return texts[:1] == ["list"] and _shows(name, rest[1:], inside)[0], []
    pattern = _LISTING.get(name)
    if pattern is None or (not texts and name not in ("remote", "reflog", "submodule")):
        return False, []
    return all(pattern.fullmatch(text) for text in texts), []


def _subcommand(words: Sequence[Word], inside: Inside) -> int | None:
    """Return where the subcommand stands, if only harmless options come before it."""
    at = 1
    while at < len(words):
        word = words[at]
        if word.text == "-C" and word.plain:
            if at + 1 >= len(words) or not words[at + 1].plain or not inside(words[at + 1]):
                return None
            at += 2
        elif word.text in (
            "--no-pager",
            "-P",
            "--no-optional-locks",
            "--literal-pathspecs",
        ):
            at += 1
        elif word.text == "--version" and len(words) == at + 1:
            return None
        else:
            return None if word.text.startswith("-") else at
    return None


def _shows(name: str, words: Sequence[Word], inside: Inside) -> tuple[bool, list[str]]:
    files: list[str] = []
    options = True
    for word in words:
        text = word.text
        if options and text == "--":
            options = False
        elif options and word.pattern == 0:
            return False, []
        elif options and text.startswith("-"):
            if _is_harmful(name, text):
                return False, []
            value = text.partition("=")[2] if text.startswith("--") else text[2:]
            if value and not text.startswith(_TEXTS) and not inside(Word(text=value)):
                return False, []
        elif not inside(word):
            return False, []
        else:
            files.append(text)
    return True, files


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
