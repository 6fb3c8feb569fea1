"""Random commands: judging them never fails, and what is allowed does no harm when it runs.

The oracle is bash itself. What the rules allow runs in a folder of its own, where the
programs that do harm are replaced by ones that say that they were called.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kaizen_permissions._commands import analyse, covers, touches

BASH = shutil.which("bash")
_RUNNERS = ("env", "timeout", "nice", "find", "xargs", "sh", "bash")
_FOLDERS = 4  # the root, what is outside, the programs, the home
PARTS = (
    *("rm", "rm x", "ls", "cat", "echo", "f", "src", "x=rm", "x=a", "$x", '"$x"', "${x}"),
    *(
        "$(",
        "`",
        ")",
        "(",
        "{ ",
        "}",
        ";",
        "&",
        "|",
        "&&",
        "||",
        "\n",
        ">",
        ">>",
        "<",
        "<<<",
    ),
    *(
        "<<E\n",
        "\nE\n",
        "<<-E\n",
        "\n\tE\n",
        "E",
        "'",
        '"',
        "\\",
        "\\\n",
        " ",
        " ",
        " ",
        "\t",
    ),
    *(
        "if ",
        "then ",
        "fi ",
        "; then ",
        "; fi",
        "; do ",
        "; done",
        "for i in a b",
        "while false",
    ),
    *(
        "case a in ",
        "a)",
        "esac",
        ";;",
        "#",
        "# ",
        "!",
        "time ",
        "env ",
        "timeout 1 ",
        "nice ",
    ),
    *("sh -c ", "bash -c ", "eval ", "xargs ", "find . -exec ", "{} \\;", "-n", "--", "-e"),
    *("*", "?", "[", "[[ ", " ]]", "]", "~", "$", "$((", "))", "((", "$'", "1", "2", ">&1"),
    *(
        "2>/dev/null",
        "/dev/null",
        "{a,rm}",
        "{",
        "a,b}",
        "cd src",
        "cd src && ",
        "l/x",
        "> l/x",
    ),
    *(
        "../",
        "cd ..",
        "(cd src) ",
        "f()",
        "function f",
        "local ",
        "export ",
        "%",
        "in ",
        "<(",
    ),
    *(
        ">(",
        "coproc ",
        "test -f f",
        "[ -f f ]",
        "exec ",
        "command ",
        "read y",
        "$y",
        "set -e",
    ),
    *(
        "trap ",
        "EXIT",
        "IFS=",
        "x+=m",
        "x=r",
        "$x$y",
        "m",
        "r",
        "&>",
        "|&",
        "<&",
        ">&",
        ">|",
    ),
    *(
        "..",
        ".",
        "wc -l",
        "sort",
        "head -1",
        "grep -n",
        "-i",
        "A",
        "@",
        "^",
        "=",
        "==",
        "\r",
    ),
)
WHOLE = (
    "ls && rm x",
    "echo $(rm x)",
    "if true; then rm x; fi",
    "for i in a b; do rm $i; done",
    "cat <<E\n$(rm x)\nE",
    "x=rm; $x a",
    "(cd src; rm g)",
    "bash -c 'rm x'",
    "ls | xargs rm",
    "find . -exec rm {} \\;",
    "echo 'a' \"b\" `rm x`",
    "case a in a) rm x;; esac",
    "cd src && ls > l/x",
    "cat <<'E' | sh\nrm x\nE",
    "x=ls; if false; then x=rm; fi; $x",
    "trap 'rm x' EXIT",
    "echo a # b\nrm x",
    "while read -r l; do rm $l; done < f",
    "ls 2>&1 | cat > x",
    "cat f | sort | head -1 > l/x",
)


def mutated(chance: random.Random) -> str:
    """Return a command that may well be none."""
    if chance.random() < 0.4:
        return "".join(chance.choices(PARTS, k=chance.randint(1, 14)))
    text = chance.choice(WHOLE)
    for _ in range(chance.randint(1, 5)):
        at, to = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        kind = chance.random()
        if kind < 0.5:
            text = text[:at] + chance.choice(PARTS) + text[at:]
        elif kind < 0.8:
            text = text[:at] + text[min(to, at + 4) :]
        else:
            text = text[:at] + text[to:] + text[at:to]
    return text


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_judged(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    for _ in range(400):
        raw = chance.randbytes(chance.randint(0, 200))
        for text in (raw.decode("latin-1"), raw.decode(errors="surrogateescape")):
            analysis = analyse(text, cwd=tmp_path, roots=[tmp_path])

            assert analysis.understood == (not analysis.problem)
            touches(analysis, "rm *")


@pytest.mark.parametrize("seed", range(3))
def test_mutated_commands_are_judged_for_what_stands_in_them(
    seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    for _ in range(2_000):
        text = mutated(chance)
        analysis = analyse(text, cwd=tmp_path, roots=[tmp_path])

        assert not covers(analysis, ["sudo *"]) or covers(analysis, [])
        touches(analysis, "rm -rf *")


class Place:
    """A folder to run commands in, and what tells whether they did harm."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._outside = folder / "outside"
        self._calls = folder / "calls"
        self._programs = folder / "programs"
        self._home = folder / "home"
        for each in (self._programs, self._outside, self._home):
            each.mkdir()
        rm = self._programs / "rm"
        rm.write_text(f"#!{BASH}\necho called >> '{self._calls}'\n", encoding="utf-8")
        rm.chmod(0o755)
        for name in ("ls", "cat", "wc", "grep", "sort", "head", *_RUNNERS):
            if (found := shutil.which(name)) is not None:
                (self._programs / name).symlink_to(found)
        self.renew()

    def renew(self) -> None:
        """Make the root as it was."""
        shutil.rmtree(self.root, ignore_errors=True)
        (self.root / "src").mkdir(parents=True)
        (self.root / "f").write_text("hi rm x\n", encoding="utf-8")
        for folder in (self.root, self.root / "src"):
            (folder / "l").symlink_to(self._outside)

    def harm(self, command: str) -> bool:
        """Run a command, and tell whether it called `rm` or wrote outside the root."""
        assert BASH is not None
        subprocess.run(
            [BASH, "-c", command],
            cwd=self.root,
            env={"PATH": str(self._programs), "HOME": str(self._home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
            check=False,
        )
        return (
            self._calls.exists()
            or any(self._outside.iterdir())
            or any(self._home.iterdir())
            or len(list(self.root.parent.iterdir())) > _FOLDERS
        )

    def changed(self) -> bool:
        """Tell whether anything in the root is not as it was."""
        names = sorted(each.name for each in self.root.iterdir())
        text = (self.root / "f").read_text(encoding="utf-8")
        inside = [each.name for each in (self.root / "src").iterdir()]
        return names != ["f", "l", "src"] or text != "hi rm x\n" or inside != ["l"]


def allowed(chance: random.Random, place: Place, *, may_write: bool) -> Iterator[str]:
    """Give mutated commands that are allowed, and in which something could go wrong."""
    for _ in range(4_000):
        text = mutated(chance)
        if "rm" not in text and ">" not in text and "x" not in text:
            continue
        analysis = analyse(text, cwd=place.root, roots=[place.root])
        if covers(analysis, [], may_write=lambda _path: may_write):
            yield text


@pytest.mark.skipif(BASH is None, reason="there is no bash that could tell")
@pytest.mark.parametrize("seed", range(3))
def test_what_is_allowed_does_no_harm_when_it_runs(seed: int, tmp_path: Path) -> None:
    place = Place(tmp_path)
    tried = 0

    for command in allowed(random.Random(seed), place, may_write=False):
        tried += 1
        assert not place.harm(command), command
        assert not place.changed(), command

    assert tried >= 10


@pytest.mark.skipif(BASH is None, reason="there is no bash that could tell")
@pytest.mark.parametrize("seed", range(3))
def test_what_may_write_writes_inside_the_roots_alone(seed: int, tmp_path: Path) -> None:
    place = Place(tmp_path)
    tried = 0

    for command in allowed(random.Random(100 + seed), place, may_write=True):
        tried += 1
        assert not place.harm(command), command
        place.renew()

    assert tried >= 10


READERS = (
    *(
        [
            "find",
            "uniq",
            "xxd",
            "sed",
            "awk",
            "grep",
            "sort",
            "head",
            "cat",
            "wc",
            "ls",
            "diff",
            "tree",
            "jq",
            "cut",
            "xargs",
            "comm",
        ]
    ),
    *(
        [
            "paste",
            "nl",
            "tac",
            "od",
            "base64",
            "stat",
            "du",
            "file",
            "cmp",
            "printf",
            "echo",
            "test",
            "[",
            "env",
            "timeout",
            "sh",
        ]
    ),
    *(["bash", "strings", "column", "fold", "join", "date", "tr", "find", "find", "xargs"]),
)
OPTIONS = (
    *(
        [
            "-n",
            "-e",
            "-c",
            "-o",
            "-r",
            "-R",
            "-L",
            "-l",
            "-z",
            "-0",
            "-i",
            "-I",
            "-s",
            "-k",
            "-t",
            "-u",
            "-v",
            "-p",
            "-d",
            "-f",
            "-x",
            "-a",
            "-H",
            "-h",
            "-w",
        ]
    ),
    *(
        [
            "-name",
            "-delete",
            "-exec",
            "-type",
            "-print",
            "-print0",
            "-size",
            "--file=",
            "--label=",
            "-newer",
            "-F",
            "-ps",
        ]
    ),
    *(
        [
            "-bs",
            "-Io",
            "-E",
            "-C",
            "-m",
            "-q",
            "-1",
            "-maxdepth",
            "-execdir",
            "-D",
            "-T",
            "-S",
            "-y",
            "-path",
        ]
    ),
)
WORDS = (
    *(
        [
            "a.txt",
            "b.txt",
            "src",
            "src/*",
            "*",
            "./*",
            "*.txt",
            "./*.txt",
            "src/l*",
            "src/link",
            "../outside/key",
        ]
    ),
    *(
        [
            "$x",
            '"$x"',
            "p",
            "1p",
            "B*",
            "w*",
            "1e*",
            "s,*,b,",
            ".",
            "..",
            ".?",
            ".*",
            "{}",
            "';'",
            "+",
            "f",
            "1",
            "5",
            "x",
            "-",
            "--",
            "/dev/null",
        ]
    ),
    *(
        [
            "src/deep/out/key",
            "src/deep",
            "s*/l*",
            "src/d*/*/key",
            "g",
            "[+-]*",
            "-*",
            "touch",
            "made",
            "rm",
            "%",
        ]
    ),
    *(
        [
            "-c",
            "@a.txt",
            "b*",
            "y",
            "$(echo",
            "-delete)",
            "'a",
            "b'",
            "'1e",
            "touch",
            "made'",
            "'w",
            "made'",
            "'{print}'",
        ]
    ),
    *("'{system(\"touch made\")}'", "<(cat a.txt)", "< a.txt", "<<< 'touch made'"),
    *("'BEGIN{ARGV[1]=\"../outside/key\";ARGC=2}{print}'", "'touch made'", "$(cat b.txt)"),
)
JOINTS = (" | ", " | ", " ; ", " && ", " | xargs ", " | xargs -0 ", " | xargs -I% ")
HOSTILE = (
    *("a.txt", "b.txt", "src/app.py", "-delete", "+0", "-exec", "1etouch made", "w made"),
    *(
        'BEGIN{system("touch made")}',
        "x -e 1etouch z",
        "src/-o",
        "src/x y",
        "--files0-from=l",
    ),
)


class Hostile:
    """A folder with names that are options and scripts, and links to what is outside."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._outside = folder / "outside"
        self._outside.mkdir()
        (self._outside / "key").write_text("SECRET\n", encoding="utf-8")
        (self.root / "src" / "deep").mkdir(parents=True)
        for name in HOSTILE:
            (self.root / name).write_text("x\nb\n", encoding="utf-8")
        (self.root / "src" / "link").symlink_to(self._outside / "key")
        (self.root / "src" / "deep" / "out").symlink_to(self._outside)
        self._before = self._files()

    def _files(self) -> list[tuple[str, bytes]]:
        return sorted(
            (str(each), each.read_bytes() if each.is_file() else b"")
            for each in self.root.rglob("*")
        )

    def harm(self, command: str) -> bool:
        """Run a command, and tell whether it changed a file, or told the secret."""
        assert BASH is not None
        ran = subprocess.run(
            [BASH, "-c", command],
            cwd=self.root,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self._outside)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
            check=False,
        )
        return b"SECRET" in ran.stdout + ran.stderr or self._files() != self._before


def reading(chance: random.Random) -> str:
    """Return programs that read, with words and options that may be anything."""
    parts = []
    for _ in range(chance.choice((1, 1, 2, 2, 3))):
        words = [
            chance.choice(OPTIONS if chance.random() < 0.4 else WORDS)
            for _ in range(chance.randint(0, 5))
        ]
        parts += [" ".join([chance.choice(READERS), *words]), chance.choice(JOINTS)]
    command = "".join(parts[:-1])
    if chance.random() < 0.15:
        return f"x={chance.choice(WORDS)}; {command}"
    if chance.random() < 0.05:
        return f"for x in {chance.choice(WORDS)} b; do {command}; done"
    return command


@pytest.mark.skipif(BASH is None, reason="there is no bash that could tell")
@pytest.mark.parametrize("seed", range(3))
def test_what_only_reads_changes_and_tells_nothing(seed: int, tmp_path: Path) -> None:
    place = Hostile(tmp_path)
    chance = random.Random(seed)
    tried = 0

    for _ in range(1_500):
        command = reading(chance)
        if analyse(command, cwd=place.root, roots=[place.root]).only_reads:
            tried += 1
            assert not place.harm(command), command

    assert tried >= 30
