"""Spellings that are made to be taken for something that is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kaizen.tools import ToolSpec
from kaizen_permissions import Policy

from tests.plugins.permissions.workbench import ASK, DENY, Journal, allow, deny

LOOKALIKES = {
    "a": "аɑａ", "c": "сϲｃ", "d": "ԁｄ", "e": "еｅė", "f": "ｆƒ", "i": "іıｉí",
    "l": "ⅼ1Iｌ", "m": "ⅿｍ", "o": "оο0ｏ", "p": "рｐ",
    "r": "ｒг", "s": "ѕｓſ", "t": "ｔт", "w": "ｗԝ",
    "_": "＿-‿ ", "/": "／∕⁄\\",
}  # fmt: skip
UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u202e\u2066\x00\x08\x0b\x1b\x7f\t\n\r "
NAMES = ("read_file", "write_file", "list_directory", "delete_file")


def names() -> Iterator[str]:
    """Yield names that look like those of tools."""
    for name in NAMES:
        for place, letter in enumerate(name):
            for other in (*LOOKALIKES.get(letter, ""), letter.upper()):
                if other != letter:
                    yield name[:place] + other + name[place + 1 :]
        for unseen in UNSEEN:
            yield from (unseen + name, name + unseen, name[:3] + unseen + name[3:])
        yield from (
            f"{name}{each}" for each in ("s", "2", "_", "()", "(x)", ".", "*", "\u0301")
        )
        yield from (f"{each}{name}" for each in ("x", "_", "mcp.", "./", "re:", "un"))
        yield from (name[:-1], name[1:], name.replace("_", ""), name.replace("_", "__"))
        yield from (name.title(), name.upper(), f"{name}\0.txt", name * 8, "")


def paths(project: Path) -> Iterator[str]:
    """Yield paths that are outside `src`, and made to look as if they were not."""
    up, victim = "..", "outside/victim.txt"
    for start in (
        "src",
        "./src",
        "src/.",
        "src//",
        str(project / "src"),
        "src/app",
        "docs/../src",
    ):
        deep = 2 if start == "src/app" else 1
        for more in range(3):
            ups = "/".join([up] * (deep + 1 + more))
            yield f"{start}/{ups}/{victim}"
            yield f"{start}/./{ups}/./{victim}"
            yield f"{start}//{ups}//{victim}"
            yield f"{start}/x/{up}/{ups}/{victim}"
    for link in ("link", "app/link", "loop/link", "chain"):
        yield from (f"src/{link}/victim.txt", f"src/{link}/./victim.txt", f"src/{link}/new")
        yield f"src/app/../{link}/victim.txt"
        yield f"src/{link}/../outside/victim.txt"
    for slash in LOOKALIKES["/"]:
        yield from (f"src{slash}victim.txt", f"src{slash}..{slash}victim.txt")
    for place, letter in enumerate("src"):
        for other in (*LOOKALIKES[letter], letter.upper()):
            yield "src"[:place] + other + "src"[place + 1 :] + "/victim.txt"
    for unseen in UNSEEN:
        yield from (f"{unseen}src/a", f"src{unseen}/a", f"s{unseen}rc/a", f"src/a{unseen}")
        yield f"src/{unseen}/../../{victim}"
    yield from (
        "/proc/self/cwd/src/a",
        "/proc/1/cwd/src/a",
        "/dev/fd/0",
        "/dev/../proc/1/cwd",
    )
    yield from (
        "~/src/a",
        "~root/src/a",
        "$PWD/src/a",
        "${PWD}/src/a",
        "`pwd`/src/a",
        "src*/a",
    )
    yield from ("file:src/a", "file:///src/a", "FILE:src/a", "\\\\?\\src\\a", "C:\\src\\a")
    yield from (
        "src",
        "src.",
        "src./a",
        "src .txt",
        "srcs/a",
        "/src/a",
        "%73rc/a",
        "src%2fa",
    )
    yield from ("src/" + "../" * 40 + "etc/passwd", "src/" + "a" * 5_000, "{src,x}/a")


def is_really_below(path: str, folder: Path) -> bool:
    """Whether a path is below a folder, as Python sees it, without our code."""
    try:
        return folder.resolve() in Path(path).resolve().parents
    except (OSError, ValueError, RuntimeError):
        return False


def test_no_name_that_looks_like_that_of_a_tool_is_taken_for_it(journal: Journal) -> None:
    hostile = [each for each in dict.fromkeys(names()) if each not in NAMES]
    policy = Policy([allow(each) for each in NAMES], mode="acceptEdits")
    expressions = Policy([allow("re:read_file|write_file|list_directory|delete_file")])

    taken = [each for each in hostile if policy.decide(each, {"path": "a"})]
    matched = [each for each in hostile if expressions.decide(each, {"path": "a"})]

    assert len(hostile) > 300
    assert taken == []
    assert matched == []


def test_a_name_that_there_cannot_be_is_refused_even_where_all_are_allowed() -> None:
    policy = Policy([allow("re:.*", 100)], mode="bypass")
    impossible = [
        each
        for each in names()
        if not (each and each.isascii() and each.replace("_", "a").isalnum())
        or each != each.lower()
        or len(each) > 64
    ]

    assert len(impossible) > 200
    assert all(policy.decide(each, {}).type is DENY for each in impossible)


def test_no_path_that_looks_allowed_is_taken_for_one_that_is(
    project: Path, journal: Journal
) -> None:
    (project / "src/link").symlink_to(project.parent / "outside")
    (project / "src/app/link").symlink_to("../../../outside")
    (project / "src/loop").symlink_to(project / "src")
    (project / "src/chain").symlink_to("link")
    policy = Policy([allow("write_file(src/**)")], protected=())
    spec = journal.tools["write_file"].spec
    hostile = [
        each
        for each in dict.fromkeys(paths(project))
        if not is_really_below(each, project / "src")
    ]
    odd = [each for each in dict.fromkeys(paths(project)) if each not in hostile]

    taken = [each for each in hostile if _allows(policy, each, spec)]

    assert len(hostile) > 200
    assert taken == []
    # What only looks odd may be allowed, since it is below all the same.
    assert all(is_really_below(each, project / "src") for each in odd)
    assert _allows(policy, "src/app/main.py", spec)


def test_no_spelling_of_a_denied_path_gets_by_a_rule_that_allows_the_tool(
    project: Path, journal: Journal
) -> None:
    (project / "alias").symlink_to("secret.key")
    (project / "up").symlink_to("..")
    policy = Policy([deny("read_file(secret.key)"), allow("read_file")])
    spec = journal.tools["read_file"].spec
    spellings = [
        "secret.key", "./secret.key", ".//secret.key", "src/../secret.key", "alias",
        "src/app/../../secret.key", str(project / "secret.key"), f"/{project}/secret.key",
        "up/project/secret.key", "../project/secret.key", "docs/./../secret.key",
        f"{project}/src/..//secret.key", "up/project/alias", "././././secret.key",
    ]  # fmt: skip
    odd = ["/proc/self/cwd/secret.key", "secret.key\0", " secret.key", "file:secret.key"]

    for each in spellings:
        assert policy.decide("read_file", {"path": each}, spec=spec).type is DENY, each
    for each in odd:
        assert policy.decide("read_file", {"path": each}, spec=spec).type is ASK, each


def test_at_least_five_hundred_hostile_spellings_were_tried(project: Path) -> None:
    assert len({*names()}) + len({*paths(project)}) >= 500


def _allows(policy: Policy, path: str, spec: ToolSpec) -> bool:
    arguments = {"path": path, "content": ""}
    return bool(policy.decide("write_file", arguments, spec=spec))
