"""Hostile spellings: none is taken for the allowed program, none dodges a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kaizen_permissions._commands import Analysis, analyse, covers, touches

ALLOWED = ("git", "pytest", "make", "echo")
ALIKE = {
    "a": "аαａ𝐚",
    "c": "сϲｃ𝐜",
    "e": "еｅ𝐞ҽ",
    "g": "ɡｇ𝐠",
    "h": "һｈ𝐡",
    "i": "іıｉ𝐢",
    "k": "кκｋ𝐤",
    "m": "ｍ𝐦м",
    "o": "оοօｏ𝐨",
    "p": "рρｐ𝐩",
    "r": "гｒ𝐫",
    "s": "ѕｓ𝐬",
    "t": "тτｔ𝐭",
    "y": "уｙ𝐲",
}
UNSEEN = (
    "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u202a\u202e\u2066\u2069\u180e\u034f"
    "\u0301\u0336\u00a0\u1680\u2000\u2003\u2009\u202f\u205f\u3000\u2028\u2029\u0085"
    "\x01\x07\x08\x0b\x0c\x1b\x7f\r"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an empty project."""
    root = tmp_path / "project"
    root.mkdir()
    return root


def looked_at(command: str, root: Path) -> Analysis:
    return analyse(command, cwd=root, roots=[root])


def others(name: str) -> Iterator[str]:
    """Give names that look like a program's, or hide it, and are not its own."""
    yield from {name.upper(), name.title(), name[:-1] + name[-1].upper(), name.swapcase()}
    for at, char in enumerate(name):
        for alike in ALIKE.get(char, ""):
            spelled = name[:at] + alike + name[at + 1 :]
            yield from (spelled, f"'{spelled}'", f'"{spelled}"')
    for at in range(len(name) + 1):
        for unseen in UNSEEN:
            yield name[:at] + unseen + name[at:]
            yield f"'{name[:at]}{unseen}{name[at:]}'"
    yield from (f"{name}.", f"'{name} '", f"' {name}'", f"'{name}\n'", f"$'{name}\\n'")
    yield from (f"{name}/", f"{name}.exe", f"{name}%", f"{name}~", f"-{name}", f"+{name}")
    yield from (f"$'{name}\\x00'", f"$'\\xd1\\x80{name}'", f"$'{name}\\u200b'", f"_{name}")
    for folder in (
        ".",
        "..",
        "bin",
        "./bin",
        "/tmp",
        "~",
        "~root",
        "$HOME",
        "/usr/bin/..",
        "//",
    ):
        yield f"{folder}/{name}"
    yield from (f"/bin/../{name}", f"/usr/bin/../../tmp/{name}", f"/usr/bin//../{name}")
    yield from (
        f"./../project/{name}",
        f"node_modules/.bin/{name}",
        f"/proc/self/cwd/{name}",
    )
    yield from (f"{name[:-1]}?", f"{name[:-1]}*", f"[{name[0]}]{name[1:]}", f"./{name[0]}*")
    yield from (
        f"${name}",
        f"${{{name}}}",
        f"$({name})",
        f"`{name}`",
        f"{name}$x",
        f'{name}"$x"',
    )
    yield from (f"{name}$IFS", f"{name}${{IFS}}x", f"${{x:-{name}}}", f"{name}{{,x}}y")
    yield from (
        f'$"{name}"',
        f"{name}<(ls)",
        f"%{name}",
        f"@{name}",
        f"={name}",
        f"{name}\\\n$x",
    )
    yield from (
        f"a={name}; b=$a; $bb",
        f"IFS=x; {name}",
        f"PATH=. {name}",
        f"alias {name}=ls; ls",
    )


def refused(name: str) -> Iterator[str]:
    """Give spellings that bash takes for a program, or might."""
    yield from (f"'{name}'", f'"{name}"', f"\\{name}", "".join(f"\\{c}" for c in name))
    for at in range(len(name) + 1):
        for filler in ("''", '""', "$''", "\\\n"):
            yield name[:at] + filler + name[at:]
    for at, char in enumerate(name):
        for coded in (f"\\x{ord(char):02x}", f"\\{ord(char):03o}", f"\\u{ord(char):04x}"):
            yield f"{name[:at]}$'{coded}'{name[at + 1 :]}"
            yield f"$'{name[:at]}{coded}{name[at + 1 :]}'"
        yield f"{name[:at]}'{char}'{name[at + 1 :]}"
        yield f'{name[:at]}"{char}"{name[at + 1 :]}'
    for folder in (
        "/bin",
        "/usr/bin",
        "//bin/",
        "/bin/.",
        "/bin/../bin",
        "/usr/../bin",
        ".",
    ):
        yield f"{folder}/{name}"
    for folder in (
        "./../bin",
        "~/bin",
        "/usr/local/bin",
        "/sbin",
        "/snap/bin",
        "..",
        "/opt/x",
    ):
        yield f"{folder}/{name}"
    yield from (
        f"'/bin/{name}'",
        f"/bi'n/{name[0]}'{name[1:]}",
        f"/b\\in/{name}",
        f"\t {name}",
    )
    for wrapper in (
        "env",
        "command",
        "exec",
        "nohup",
        "sudo",
        "time",
        "busybox",
        "nice -n 1",
    ):
        yield f"{wrapper} {name}"
    for before in (
        "! ",
        "2>&1 ",
        "<f ",
        ">f ",
        "CI=1 ",
        "ls;",
        "ls|",
        "ls&",
        "ls\n",
        "(",
        "$(",
    ):
        yield before + name
    yield from (
        f"x={name}; $x",
        f"x={name}; ${{x}}",
        f'x={name}; "$x"',
        f"x={name}; y=$x; $y",
    )
    yield from (
        name.upper(),
        name.title(),
        f"eval {name}",
        f"eval '{name}'",
        f"sh -c {name}",
    )


def test_no_other_program_is_taken_for_an_allowed_one(root: Path) -> None:
    tried = [f"{each} x" for name in ALLOWED for each in others(name)]
    rules = [f"{name} *" for name in ALLOWED]
    taken = [each for each in tried if covers(looked_at(each, root), rules)]

    assert len(set(tried)) >= 1_000
    assert taken == []


def test_no_spelling_of_a_refused_program_is_allowed(root: Path) -> None:
    tried = [f"{each} x" for name in ("rm", "curl", "git") for each in refused(name)]
    allowed = [each for each in tried if covers(looked_at(each, root), ["echo *", "ls *"])]

    assert len(set(tried)) >= 200
    assert allowed == []


@pytest.mark.parametrize("name", ["rm", "curl", "git"])
def test_no_spelling_dodges_a_refusal(name: str, root: Path) -> None:
    for each in refused(name):
        analysis = looked_at(f"{each} x", root)

        assert touches(analysis, f"{name} *") or not analysis.understood, each


def outside(root: Path) -> Iterator[str]:
    """Give paths that lead out of a root, in many spellings."""
    out = str(root.parent / "secret")
    ups = (
        "..",
        "./..",
        ".././",
        "src/../..",
        "./src/./../..",
        "../project/..",
        "..//",
        "././..",
    )
    for up in ups:
        for tail in ("secret", "./secret", "secret/.", "/secret", "secret/../secret"):
            yield f"{up}/{tail}"
    for tail in (
        out,
        f"/{out}",
        f"//{out}",
        f"{out}/",
        f"/proc/self/root{out}",
        f"/.{out}",
    ):
        yield tail
    yield from ("~", "~/x", "~root/x", "~+/../secret", "~-", "/proc/self/cwd/../secret")
    yield from (
        "link/secret",
        "./link/secret",
        "src/../link/secret",
        "lin?/secret",
        "l*/secret",
    )
    yield from (
        "/dev/sda",
        "/dev/tcp/h/1",
        "/dev/fd/9",
        "/",
        "//",
        "/.",
        "/..",
        "/etc/../etc",
    )


QUOTED = (
    "{}",
    "'{}'",
    '"{}"',
    "''{}",
    "{}''",
    '""{}',
    "$'{}'",
    "\\{}",
)


def test_no_spelling_of_a_path_leads_out_unseen(root: Path) -> None:
    (root / "src").mkdir()
    (root.parent / "secret").mkdir()
    (root / "link").symlink_to(root.parent)
    rules = ["pytest *", "touch *", "git add *"]
    tried = [
        shape.format(form.format(path))
        for path in outside(root)
        for form in QUOTED
        for shape in ("cat {}", "touch {}", "pytest --x={}", "ls > {}", "git add -- {}")
        # In quotes, a tilde and a pattern are the name of a file.
        if form == "{}" or not (path.startswith("~") or {"?", "*"} & set(path))
    ]
    taken = [
        each
        for each in tried
        if covers(looked_at(each, root), rules, may_write=lambda _path: True)
    ]

    assert len(set(tried)) >= 500
    assert taken == []
