"""What the configuration of a repository would make git run.

Git reads it before it does anything, and runs what stands there: a monitor of the file
system, hooks, filters, drivers, a pager. It may have come with files from anywhere. So a
command of git only reads if all that the repository sets is known to run nothing; what is
not listed here may. Nothing is run to find out, and no file is read without a limit.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from posixpath import dirname, join
from struct import unpack_from

from kaizen_permissions._words import named

__all__ = ["git_folder", "runs_nothing"]

MAX_CONFIG_BYTES = 262_144
MAX_INDEX_BYTES = 64 * 1_024 * 1_024
MAX_REPOSITORIES = 64
_MAX_PATH = 4_096
_GITDIR = re.compile(r"gitdir: ([^\n\r\0]*/)?\.git(/[^\n\r\0]*)?")
_SECTION = re.compile(
    r'[ \t]*\[([A-Za-z0-9-]+)(?:\.([A-Za-z0-9.-]+)|[ \t]+"((?:[^"\\]|\\.)*)")?\](.*)'
)
_SETTING = re.compile(r"[ \t]*([A-Za-z][A-Za-z0-9-]*)[ \t]*(?:=[ \t]*(.*?)[ \t]*)?")
_NOTHING = re.compile(r"[ \t]*(?:[#;].*)?")
# An entry of the index: times, device and inode; then the mode, of which this is a
# repository's; then its owner, size and hash; then flags with the length of its name.
# After all of them come extensions, each with its name and length, and a hash.
_LINK = b"\x00\x00\xe0\x00"
_MODE_AT = 24
_FIXED = 62
_EXTENDED = 0x4000
_LENGTH = 0xFFF
_HASH = 20
_KNOWN_INDEXES = (b"DIRC\x00\x00\x00\x02", b"DIRC\x00\x00\x00\x03")
_JUMPS = b"IEOT"  # tells git where entries are, so that it may find others

_HARMLESS: Mapping[str, frozenset[str] | None] = {
    # What git knows under these names runs nothing; `None` is all of it.
    "core": named(
        "repositoryformatversion filemode bare logallrefupdates ignorecase symlinks"
        " precomposeunicode autocrlf eol safecrlf sharedrepository quotepath abbrev"
        " compression loosecompression untrackedcache preloadindex longpaths protecthfs"
        " protectntfs commitgraph multipackindex trustctime checkstat fscache"
        " bigfilethreshold whitespace sparsecheckout sparsecheckoutcone"
        " hidedotfiles"
    ),
    # Not `objectformat`: other hashes make an index of which nothing is known here.
    "extensions": named("refstorage worktreeconfig noop relativeworktrees"),
    "remote": named("url pushurl fetch push tagopt prune prunetags mirror gh-resolved"),
    "submodule": named("url active branch ignore shallow recurse"),
    "user": named("name email signingkey useconfigonly"),
    "diff": named(
        "algorithm renames renamelimit colormoved mnemonicprefix noprefix context"
        " interhunkcontext indentheuristic"
    ),
    "status": named("short branch relativepaths showuntrackedfiles showstash aheadbehind"),
    "merge": named("conflictstyle ff renames renamelimit log"),
    "index": named("version threads sparse skiphash"),
    "log": named("date decorate follow abbrevcommit"),
    "lfs": named("repositoryformatversion locksverify access"),
    "commit": named("gpgsign verbose"),
    "tag": named("gpgsign sort"),
    "rebase": named("autosquash autostash updaterefs"),
    "rerere": named("enabled autoupdate"),
    **dict.fromkeys(
        named("branch color column i18n init pull push fetch gc advice gitflow pack")
    ),
}


def git_folder(path: str) -> str | None:
    """Return where a repository keeps its own: `.git`, or what the file `.git` names."""
    if os.path.isdir(path):  # noqa: PTH112 - a text is all that is needed
        return path
    text = _text(path, _MAX_PATH)
    line = "" if text is None else text.rstrip("\r\n")
    if not _GITDIR.fullmatch(line):
        return None
    return join(dirname(path), line.removeprefix("gitdir: "))


def runs_nothing(path: str) -> bool:
    """Tell whether nothing is known to be run by the repository of a file or folder `.git`.

    The repositories in it count too, into which git looks as well.
    """
    waiting, seen = [path], set[tuple[str, str]]()
    while waiting:
        git = waiting.pop()
        tree = os.path.realpath(dirname(git))
        both = (os.path.realpath(git), tree)
        if both in seen:
            continue
        seen.add(both)
        folder = git_folder(git)
        if folder is None or len(seen) > MAX_REPOSITORIES:
            return False
        if not all(_is_harmless(each, tree) for each in _folders(folder)):
            return False
        inner = _inner(folder)
        if inner is None:
            return False
        waiting += filter(os.path.lexists, (join(tree, each, ".git") for each in inner))
    return True


def _folders(folder: str) -> Iterator[str]:
    """Give the folder of a repository, and that of the one whose worktree it is."""
    yield folder
    common = join(folder, "commondir")
    if os.path.lexists(common):
        text = _text(common, _MAX_PATH)
        yield join(folder, "\0" if text is None else text.rstrip("\r\n"))


def _is_harmless(folder: str, tree: str) -> bool:
    if "\0" in folder or os.path.lexists(join(folder, "hooks", "post-index-change")):
        return False  # a hook that runs whenever git notes what it has seen
    for name in ("config", "config.worktree"):
        path = join(folder, name)
        if not os.path.lexists(path):
            continue
        text = _text(path, MAX_CONFIG_BYTES)
        if text is None:
            return False
        for section, key, value in _settings(text.removeprefix("\ufeff")):
            if not _sets_nothing(section, key, value, folder, tree):
                return False
    return True


def _sets_nothing(section: str, key: str, value: str, folder: str, tree: str) -> bool:
    """Tell whether a setting makes git neither run anything nor look elsewhere."""
    if (section, key) == ("core", "fsmonitor"):
        return value in ("true", "false")  # git's own, or none
    if (section, key) == ("core", "worktree"):
        return (
            not set(value) & set('"\\#;\0')
            and os.path.realpath(join(folder, value)) == tree
        )
    if section not in _HARMLESS:
        return False
    known = _HARMLESS[section]
    return known is None or key in known


def _settings(text: str) -> Iterator[tuple[str, str, str]]:
    """Give the section, name and value of each setting; no section is what is not one."""
    section = ""
    for line in text.split("\n"):
        rest = line.removesuffix("\r")
        if (header := _SECTION.fullmatch(rest)) is not None:
            section, rest = header[1].lower(), header[4]
            if section == "diff" and (header[2] or header[3]):
                section = ""  # a driver, which may be a program
        if _NOTHING.fullmatch(rest):
            continue
        setting = _SETTING.fullmatch(rest)
        if setting is None or rest.endswith("\\") or "\r" in rest:
            yield "", "", ""
            return
        yield section, setting[1].lower(), setting[2] or ""


def _inner(folder: str) -> list[str] | None:
    """Return the repositories that an index names, or `None` if that cannot be said."""
    path = join(folder, "index")
    if not os.path.lexists(path):
        return []
    with os.scandir(folder) as entries:
        if any(each.name.startswith("sharedindex.") for each in entries):
            return None
    data = _bytes(path, MAX_INDEX_BYTES)
    if data is None:
        return None
    if _LINK not in data:
        return []
    if data[:8] not in _KNOWN_INDEXES or _JUMPS in data:
        return None
    return _links(data)


def _links(data: bytes) -> list[str] | None:
    """Return the names of an index's entries that are repositories."""
    found: list[str] = []
    at = 12
    for _ in range(unpack_from(">I", data, 8)[0]):
        if at + _FIXED + 2 > len(data):
            return None
        flags = unpack_from(">H", data, at + _FIXED - 2)[0]
        start = at + _FIXED + (2 if flags & _EXTENDED else 0)
        end = data.find(b"\0", start)
        if end < 0 or min(end - start, _LENGTH) != flags & _LENGTH:
            return None
        if data[at + _MODE_AT : at + _MODE_AT + 4] == _LINK:
            found.append(os.fsdecode(data[start:end]))
        at += (end - at + 8) // 8 * 8
    return found if _ends(data, at) and all(map(_is_clean, found)) else None


def _ends(data: bytes, at: int) -> bool:
    """Tell whether nothing but extensions and a hash follow in an index."""
    while at + 8 <= len(data) - _HASH:
        at += 8 + int(unpack_from(">I", data, at + 4)[0])
    return at == len(data) - _HASH


def _is_clean(name: str) -> bool:
    """Tell whether a path is spelt as git itself does, and leads nowhere else."""
    return {"", ".", ".."}.isdisjoint(name.split("/"))


def _text(path: str, limit: int) -> str | None:
    data = _bytes(path, limit)
    return None if data is None else data.decode("utf-8", "surrogateescape")


def _bytes(path: str, limit: int) -> bytes | None:
    """Return what is in a file, or `None` if it is none, or too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            data = file.read(limit + 1)
        except OSError:
            return None
    return data if len(data) <= limit else None
