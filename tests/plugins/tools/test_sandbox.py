"""What confines commands: what they cannot change, read or reach, whatever they try."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import pytest
from anyio.to_thread import run_sync
from kaizen.errors import ConfigurationError
from kaizen.tools import Tool
from kaizen_tools import _sandbox
from kaizen_tools._processes import children_of
from kaizen_tools._python import python_paths

from tests.plugins.tools.addresses import listening
from tests.plugins.tools.destructive import Scene, forms, needs_privileges

pytestmark = pytest.mark.asyncio

Toolbox: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
Confined: TypeAlias = Callable[[str], dict[str, Any]]
PARTS = 8
SANDBOXES = ("bubblewrap", "landlock")

each_sandbox = pytest.mark.parametrize("sandbox", SANDBOXES)
each_part = pytest.mark.parametrize("part", range(PARTS))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Give a project and a victim beside it."""
    return Scene(tmp_path / "scene")


def forms_for(scene: Scene) -> list[str]:
    return list(forms(root=str(scene.root), victim=str(scene.victim)))


def is_destructive(form: str, scene: Scene, home: Path) -> bool:
    """Run a form with nothing around it, and say whether it changed what it must not."""
    scene.reset()
    names = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            ["/bin/bash", "-c", form],
            cwd=scene.root,
            env={**names, "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
            timeout=10,
            check=False,
        )
    return bool(scene.changed())


@each_part
async def test_each_form_does_change_something_where_nothing_confines_it(
    scene: Scene, tmp_path: Path, part: int
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    tried = [each for each in forms_for(scene)[part::PARTS] if not needs_privileges(each)]

    def harmless() -> list[str]:
        return [form for form in tried if not is_destructive(form, scene, home)]

    found = await run_sync(harmless)

    # Not every machine has every program.
    assert len(found) <= len(tried) // 5, found
    assert len(tried) - len(found) >= 1_000 // PARTS + 1


@each_sandbox
@each_part
async def test_no_form_changes_anything_outside_the_root_or_protected(
    toolbox: Toolbox, scene: Scene, confined: Confined, sandbox: str, part: int
) -> None:
    bash = {**confined(sandbox), "readable": [str(scene.victim)], "grace_s": 0.1}
    escapes = []

    async with toolbox(roots=[str(scene.root)], bash=bash) as call:
        for form in forms_for(scene)[part::PARTS]:
            scene.reset()
            result = await call("bash_command", command=form, timeout_s=10)
            assert result["sandbox"] == sandbox
            if changed := scene.changed():
                escapes.append((form, changed))

    assert escapes == []


@each_sandbox
async def test_most_forms_do_change_what_a_command_may_change(
    toolbox: Toolbox, tmp_path: Path, confined: Confined, sandbox: str
) -> None:
    scene = Scene(tmp_path / "scene")
    bash = {**confined(sandbox), "protected": [], "grace_s": 0.1}
    roots = [str(tmp_path / "scene")]
    harmless = []
    tried = [form for form in forms_for(scene) if not needs_privileges(form)][::12]

    async with toolbox(roots=roots, bash=bash) as call:
        for form in tried:
            scene.reset()
            await call("bash_command", command=f"cd project\n{form}", timeout_s=10)
            if not scene.changed():
                harmless.append(form)

    # Landlock keeps rights and times as they are.
    assert len(harmless) <= len(tried) // 4, harmless


async def ran(call: Any, command: str, **options: Any) -> str:
    """Return what a command writes, with its errors."""
    result = await call("bash_command", command=command, **options)
    return str(result["stdout"] + result["stderr"])


@each_sandbox
async def test_a_command_may_work_in_its_roots_and_its_temporary_directory(
    toolbox: Toolbox, tmp_path: Path, confined: Confined, sandbox: str
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    roots = [str(tmp_path / name) for name in ("one", "two", "notes.txt")]
    bash = {**confined(sandbox), "protected": []}
    command = f"""
        set -e
        echo 1 > a; mkdir -p b/c; mv a b/c/; ln -s b l; echo 2 >> l/c/a
        echo 3 > {tmp_path}/two/x; echo 4 > {tmp_path}/notes.txt
        cat <(sort l/c/a) > sorted; cp -r b b2; rm -r b
        echo 5 > $HOME/h; echo 6 > $TMPDIR/t; cat $HOME/h $TMPDIR/t; ls > /dev/null
        '{sys.executable}' -c 'import json, ssl, sqlite3; print(json.dumps([7]))'
        git --version > /dev/null; awk 'BEGIN {{ print 8 }}'
    """

    async with toolbox(roots=roots, bash=bash) as call:
        result = await call("bash_command", command=command)

    assert (result["exit_code"], result["stderr"]) == (0, "")
    assert result["stdout"] == "5\n6\n[7]\n8\n"
    assert text(tmp_path / "one/sorted") == "1\n2\n"
    assert text(tmp_path / "two/x") == "3\n"
    assert text(tmp_path / "notes.txt") == "4\n"


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def made_repository(folder: Path) -> None:
    folder.mkdir()
    for words in (
        ["init", "-q"],
        ["config", "user.email", "a@example.com"],
        ["config", "user.name", "a"],
        ["commit", "-q", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)


async def test_git_works_in_bubblewrap_and_sees_nothing_of_what_holds_a_place(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str
) -> None:
    await run_sync(made_repository, tmp_path / "project")
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap}
    command = (
        "git status --short; echo x > a && git add -A && git commit -qm second && git log "
        "--format=%s && git show --stat --format= && git branch b && git checkout -q b"
    )

    async with toolbox(roots=["project"], bash=bash) as call:
        result = await call("bash_command", command=command)

    assert (result["exit_code"], result["stderr"]) == (0, "")
    assert result["stdout"].startswith("second\nfirst\n")
    assert " 1 file changed" in result["stdout"]
    assert names_in(tmp_path / "project") == [".git", "a"]
    assert not (tmp_path / "project/.git/commondir").exists()


async def test_landlock_lets_files_change_but_takes_no_names_beside_protected_ones(
    toolbox: Toolbox, tmp_path: Path, landlock: int
) -> None:
    root = tmp_path / "project"
    (root / "src/deep").mkdir(parents=True)
    for name in ("src/old", "old", ".env"):
        (root / name).write_text("before\n", encoding="utf-8")
    command = """
        echo after > old; echo after > src/old; echo new > src/new; mkdir src/more
        mv src/old src/deep/; rmdir src/more
        touch -c new 2>/dev/null; echo x > new || rm old || mv old src/ || mv src s || true
        echo x > .env || echo x > .bashrc || mkdir .git || echo refused
    """

    async with toolbox(roots=["project"], bash={"sandbox": "landlock"}) as call:
        output = await ran(call, f"({command}) 2>/dev/null")

    assert output == "refused\n"
    assert text(root / "old") == text(root / "src/deep/old") == "after\n"
    assert text(root / "src/new") == "new\n"
    assert text(root / ".env") == "before\n"
    assert names_in(root) == [".env", "old", "src"]


async def test_a_name_that_does_not_exist_is_protected_and_does_not_come_to_exist(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str
) -> None:
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap}
    protected = [".env", "a/b/c", ".git/hooks", ".git/config"]
    command = """
        echo x > .env; rm -rf .env; mv .env e; mkdir -p a/b; echo x > a/b/c
        git init -q; mkdir -p .git/hooks; echo new > new
    """

    async with toolbox(bash={**bash, "protected": protected}) as call:
        await call("bash_command", command=command)

    assert names_in(tmp_path) == ["new"]


async def test_commands_side_by_side_share_what_holds_a_place(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str
) -> None:
    for name in ("ready", "go"):
        os.mkfifo(tmp_path / name)
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "protected": [".env"]}
    outputs = []

    async def wait(call: Any) -> None:
        command = "echo >ready; read -r <go; echo x > .env; mkdir .env; rmdir .env; ls -A"
        outputs.append(await ran(call, f"({command}) 2>/dev/null"))

    async with toolbox(bash=bash) as call:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, call)
                await run_sync(text, tmp_path / "ready", abandon_on_cancel=True)
                other = await ran(call, "ls -A")
                between = (tmp_path / ".env").is_socket()
                await run_sync((tmp_path / "go").write_text, "\n")

    assert between
    assert other.split() == outputs[0].split() == [".env", "go", "ready"]
    assert not (tmp_path / ".env").exists()


async def test_what_a_killed_supervisor_leaves_is_known_and_taken_away(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str
) -> None:
    command = f"echo >ready; sleep 60; true  # {tmp_path}"
    os.mkfifo(tmp_path / "ready")
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "protected": [".env"]}
    results = []

    async def run(call: Any) -> None:
        results.append(await call("bash_command", command=command))

    async with toolbox(bash=bash) as call:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, call)
                await run_sync(text, tmp_path / "ready", abandon_on_cancel=True)
                os.kill(await run_sync(supervisor_of, command), 9)
        left = (tmp_path / ".env").is_socket()
        await call("bash_command", command="true")

    assert "the supervisor was killed" in results[0]["stderr"]
    assert left
    assert not (tmp_path / ".env").exists()


def supervisor_of(command: str) -> int:
    """Return the process that looks after a command, two below this one."""
    own = str(os.getpid())
    pid = next(
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.parent.name != own and command.encode() in path.read_bytes()
    )
    line = [pid]
    while line[-1] != os.getpid():
        text = Path(f"/proc/{line[-1]}/stat").read_text(encoding="utf-8")
        line.append(int(text.rpartition(")")[2].split()[1]))
    return line[-3]


async def test_a_directory_of_the_user_is_not_taken_for_one_that_holds_a_place(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str
) -> None:
    (tmp_path / ".env").mkdir()
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "protected": [".env"]}

    async with toolbox(bash=bash) as call:
        await call("bash_command", command="rmdir .env; mkdir .env/a; chmod 700 .env")

    assert names_in(tmp_path) == [".env"]
    assert names_in(tmp_path / ".env") == []


async def test_a_protected_link_is_refused_by_bubblewrap_and_says_so(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / ".git").symlink_to("real")
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap}

    async with toolbox(bash={**bash, "protected": []}) as call:
        result = await call("bash_command", command="echo > new")
    async with toolbox(bash=bash) as call:
        with pytest.raises(ConfigurationError, match="is a link, which cannot be"):
            await call("bash_command", command="echo > newer")

    assert result["exit_code"] == 0
    assert not (tmp_path / "newer").exists()


@each_sandbox
async def test_a_root_that_was_replaced_is_not_used(
    toolbox: Toolbox, tmp_path: Path, confined: Confined, sandbox: str
) -> None:
    (tmp_path / "root").mkdir()
    bash = {**confined(sandbox), "protected": []}

    async with toolbox(roots=["root"], bash=bash) as call:
        await ran(call, "true")
        (tmp_path / "root").rename(tmp_path / "other")
        (tmp_path / "root").mkdir()
        output = await ran(call, "echo x > a")

    assert "is not the root that it was" in output
    assert names_in(tmp_path / "root") == names_in(tmp_path / "other") == []


@each_sandbox
async def test_a_root_inside_a_root_keeps_its_protected_names(
    toolbox: Toolbox, tmp_path: Path, confined: Confined, sandbox: str
) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    for name in ("a/.env", "a/b/c/.env"):
        (tmp_path / name).write_text("before\n", encoding="utf-8")
    bash = {**confined(sandbox), "protected": [".env"]}
    command = """
        echo x > .env; echo x > b/c/.env; rm b/c/.env; mv b b2; mv b/c b/c2; mkdir -p b/c
        echo x > b/c/.env; cd b/c; echo x > .env; rm -rf ../../b ../../.env
        mv ../c ../d; cd ../..; mkdir -p b/c; echo x > b/c/.env
    """

    async with toolbox(roots=["a", "a/b/c"], bash=bash) as call:
        await call("bash_command", command=command)

    assert text(tmp_path / "a/.env") == text(tmp_path / "a/b/c/.env") == "before\n"


@each_sandbox
async def test_homes_keys_and_other_commands_are_not_read(
    toolbox: Toolbox,
    tmp_path: Path,
    confined: Confined,
    monkeypatch: pytest.MonkeyPatch,
    sandbox: str,
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text("s3cret\n", encoding="utf-8")
    (tmp_path / "root").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("API_KEY", "s3cret")
    places = f"""
        {home}/.ssh/id_ed25519 {home}/.ssh/* /proc/*/environ /proc/1/environ
        /proc/{os.getpid()}/environ /proc/{os.getppid()}/environ /proc/$PPID/environ
        /proc/{os.getpid()}/cmdline /proc/{os.getpid()}/root{home}/.ssh/id_ed25519
        /proc/{os.getpid()}/cwd/{home.name}/.ssh/id_ed25519 ~root/.ssh/* ~root/.bash_history
        /etc/shadow /proc/kcore /dev/mem /dev/vda /dev/sda {tmp_path}/beside
        /proc/{os.getpid()}/maps /proc/{os.getpid()}/fd/0 /proc/{os.getpid()}/mem
    """
    (tmp_path / "beside").write_text("s3cret\n", encoding="utf-8")
    own = f"/proc/{os.getpid()}"
    command = f"for each in {' '.join(places.split())}; do cat $each; done; env; set"

    async with toolbox(roots=["root"], bash=confined(sandbox)) as call:
        result = await call("bash_command", command=command)
        seen = await ran(call, f"ls -a {tmp_path} {home} /root /home 2>/dev/null")
        refused = [
            await call("bash_command", command=f"cat {path}")
            for path in ("/etc/shadow", f"{own}/environ", f"{own}/cmdline")
        ]

    assert "s3cret" not in str(result)
    assert "beside" not in seen
    assert ".ssh" not in seen
    assert [(each["exit_code"], each["stdout"]) for each in refused] == [(1, "")] * 3


@each_sandbox
async def test_settings_of_the_machine_are_not_opened_for_writing(
    toolbox: Toolbox, confined: Confined, sandbox: str
) -> None:
    command = """
        find /proc/sys/kernel /proc/sys/vm /proc/sys/fs -type f -perm /222 2>/dev/null |
        { while read -r each; do seen=1; (: >>"$each") && echo "$each"; done; echo $seen; }
    """

    async with toolbox(bash=confined(sandbox)) as call:
        result = await call("bash_command", command=f"{{ {command}\n}} 2>/dev/null")

    assert result["stdout"] == "1\n"


@each_sandbox
async def test_what_runs_this_program_is_only_read_below_a_root(
    toolbox: Toolbox,
    tmp_path: Path,
    confined: Confined,
    monkeypatch: pytest.MonkeyPatch,
    sandbox: str,
) -> None:
    places = ("venv/bin/python", "src/module.py", "work/file")
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text("before\n", encoding="utf-8")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "src")])
    command = f"""
        for each in {" ".join(places)}; do echo after >$each; done
        mv venv old; mv src old; rm -rf venv src; echo x >src/new.py
        ln -sf x venv/bin/python
    """
    texts = {}

    for is_writable in (False, True):
        bash = {**confined(sandbox), "protected": [], "writable_python_path": is_writable}
        async with toolbox(bash=bash) as call:
            tool = await call.kernel.get(Tool, "bash_command")
            assert f"'{tmp_path}/venv'" in tool.spec.description
            await call("bash_command", command=command)
        kept = (tmp_path / "src/module.py").exists()
        texts[is_writable] = (text(tmp_path / places[0]), kept, text(tmp_path / places[2]))

    assert texts[False] == ("before\n", True, "after\n")
    assert texts[True] == ("before\n", False, "after\n")


async def test_a_place_of_this_python_that_a_link_leads_to_is_exposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("root", "other", "root/a/b"):
        (tmp_path / name).mkdir(parents=True)
    link = tmp_path / "root/venv"
    link.symlink_to(tmp_path / "other")
    monkeypatch.setattr(sys, "prefix", str(link))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "root/a"), str(tmp_path / "root/a/b")])

    found = python_paths([str(tmp_path / "root")], is_path_writable=False)

    assert found.kept == (str(tmp_path / "root/a"),)
    assert found.exposed == (str(link),)


async def test_a_root_that_this_program_imports_from_is_warned_of(
    toolbox: Toolbox,
    tmp_path: Path,
    bubblewrap: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap}

    async with toolbox(bash=bash) as call:
        await call("bash_command", command="true")

    assert f"bash_command can change {str(tmp_path)!r}" in caplog.text


async def test_a_protected_name_that_is_replaced_from_outside_ends_the_command(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str
) -> None:
    (tmp_path / ".env").write_text("before\n", encoding="utf-8")
    os.mkfifo(tmp_path / "ready")
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "protected": [".env"]}
    results = []

    async def run(call: Any) -> None:
        results.append(await call("bash_command", command="echo >ready; exec sleep 60"))

    async with toolbox(bash=bash) as call:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, call)
                await run_sync(text, tmp_path / "ready", abandon_on_cancel=True)
                (tmp_path / "new").write_text("by an editor\n", encoding="utf-8")
                (tmp_path / "new").rename(tmp_path / ".env")

    assert "[stopped: somebody else replaced what was protected" in results[0]["stderr"]
    assert text(tmp_path / ".env") == "by an editor\n"


async def test_a_command_that_waits_for_its_place_ends_when_its_time_is_up(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str
) -> None:
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "protected": [".env"]}
    held = os.open(tmp_path, os.O_RDONLY)

    async with toolbox(bash=bash) as call:
        await call("bash_command", command="true")
        fcntl.flock(held, fcntl.LOCK_EX)
        with anyio.fail_after(5):
            result = await call("bash_command", command="echo > new", timeout_s=0.3)
        os.close(held)

    assert result["timed_out"]
    assert (result["exit_code"], result["stderr"]) == (143, "")
    assert names_in(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="others see no more than the system shows")
@each_sandbox
async def test_what_root_alone_may_read_is_hidden_from_what_it_runs(
    toolbox: Toolbox,
    tmp_path: Path,
    confined: Confined,
    monkeypatch: pytest.MonkeyPatch,
    sandbox: str,
) -> None:
    system, private = tmp_path / "etc", tmp_path / "etc/private"
    private.mkdir(parents=True)
    for path, mode in (("key", 0o600), ("open", 0o644), ("private/a", 0o644)):
        (system / path).write_text(f"{path}\n", encoding="utf-8")
        (system / path).chmod(mode)
    (private / "mine").mkdir()
    private.chmod(0o700)
    monkeypatch.setattr(_sandbox, "PRIVATE_IN", (str(system),))
    monkeypatch.setattr(_sandbox, "SYSTEM", (*_sandbox.SYSTEM, str(system)))

    bash = {**confined(sandbox), "protected": []}
    command = f"cd {system}; cat key private/a open; echo x >{private}/mine/b"

    async with toolbox(roots=[str(private / "mine")], bash=bash) as call:
        result = await call("bash_command", command=command)

    assert result["stdout"] == "open\n"
    assert text(private / "mine/b") == "x\n"


@each_sandbox
async def test_a_socket_in_a_root_is_not_reached(
    toolbox: Toolbox, tmp_path: Path, confined: Confined, sandbox: str
) -> None:
    command = senders(0, tmp_path)[6]
    pair = f"'{sys.executable}' -c 'import socket; socket.socketpair()'"
    codes = []

    with bound(str(tmp_path / "path"), 1):
        for settings in ({"sandbox": "none"}, confined(sandbox)):
            async with toolbox(bash=settings) as call:
                codes.append((await call("bash_command", command=command))["exit_code"])
                paired = await call("bash_command", command=pair)

    assert codes == [0, 1]
    assert paired["exit_code"] == 0


def senders(port: int, folder: Path) -> list[str]:
    python = f"'{sys.executable}' -c"
    connect = f"s.connect(('127.0.0.1', {port}))"
    return [
        f"echo x > /dev/tcp/127.0.0.1/{port}",
        f"echo x > /dev/tcp/localhost/{port}",
        f"echo x > /dev/udp/127.0.0.1/{port}",
        f'{python} "import socket; s=socket.socket(); {connect}"',
        f"{python} \"import socket; s=socket.socket(10); s.connect(('::1', {port}))\"",
        f"perl -MIO::Socket::INET -e 'IO::Socket::INET->new(\"127.0.0.1:{port}\") or die'",
        f"{python} \"import socket; s=socket.socket(1, 1); s.connect('{folder}/path')\"",
        f"{python} 'import socket; socket.socket(1).connect(\"\\0kaizen{port}\")'",
        f"{python} 'import socket; socket.socketpair(1, 2)[0].connect(\"{folder}/log\")'",
        f'{python} "import socket; socket.socket(16, 3, 9)"',
        f'{python} "import socket; socket.socket(17, 3)"',
        f'{python} "import socket; socket.socket(40, 1)"',
        f"git ls-remote git://127.0.0.1:{port}/a",
        f"unshare -n true && nsenter -t 1 -n echo x > /dev/tcp/127.0.0.1/{port}",
    ]


async def test_all_ways_lead_to_somebody_where_nothing_confines_a_command(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    kinds = ((str(tmp_path / "path"), 1), (str(tmp_path / "log"), 2))
    with listening() as (port, came), socket.socket(socket.AF_UNIX) as named:
        named.bind(f"\0kaizen{port}")
        named.listen()
        local = [bound(path, kind) for path, kind in kinds]
        codes = []

        async with toolbox(roots=["root"], bash={"sandbox": "none"}) as call:
            for command in senders(port, tmp_path)[:9]:
                result = await call("bash_command", command=command, timeout_s=10)
                codes.append(result["exit_code"])
        for each in local:
            each.close()

    assert codes.count(0) >= 7
    assert len(came) >= 3


@each_sandbox
async def test_nothing_is_sent_anywhere_while_the_network_is_off(
    toolbox: Toolbox, tmp_path: Path, confined: Confined, sandbox: str
) -> None:
    (tmp_path / "root").mkdir()
    kinds = ((str(tmp_path / "path"), 1), (str(tmp_path / "log"), 2))
    with listening() as (port, came), socket.socket(socket.AF_UNIX) as named:
        named.bind(f"\0kaizen{port}")
        named.listen()
        local = [bound(path, kind) for path, kind in kinds]
        succeeded = []

        async with toolbox(roots=["root"], bash=confined(sandbox)) as call:
            for command in senders(port, tmp_path):
                result = await call("bash_command", command=command, timeout_s=10)
                if result["exit_code"] == 0:
                    succeeded.append(command)
        for each in local:
            each.close()

    assert came == []
    assert succeeded in ([], [f"echo x > /dev/udp/127.0.0.1/{port}"])


def bound(path: str, kind: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(path)
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


@each_sandbox
async def test_the_network_is_reached_where_the_settings_say_so(
    toolbox: Toolbox, tmp_path: Path, confined: Confined, sandbox: str
) -> None:
    with listening() as (port, came):
        bash = {**confined(sandbox), "network": True}
        async with toolbox(bash=bash) as call:
            result = await call("bash_command", command=senders(port, tmp_path)[0])
            local = await call("bash_command", command=senders(port, tmp_path)[7])

    assert result["exit_code"] == 0
    assert len(came) == 1
    assert local["exit_code"] != 0


CALLS = {
    "ptrace": "101, 0, 0, 0, 0",
    "process_vm_readv": "310, 1, 0, 0, 0, 0, 0",
    "unshare": "272, 0x10000000",
    "setns": "308, 0, 0",
    "mount": "165, 0, 0, 0, 0, 0",
    "bpf": "321, 0, 0, 0",
    "perf_event_open": "298, 0, 0, 0, 0, 0",
    "userfaultfd": "323, 0",
    "io_uring_setup": "425, 1, 0",
    "keyctl": "250, 0, -3, 0",
    "add_key": "248, 0, 0, 0, 0, 0",
    "clone of a user namespace": "56, 0x10000011, 0, 0, 0, 0",
    "clone3": "435, 0, 0",
    "openat2": "437, -100, 0, 0, 0",
    "a setuid file": "90, b'a', 0o4755",
    "a setgid file that is new": "257, -100, b'new', 0o101, 0o2755",
    "reboot": "169, 0, 0, 0",
    "open_by_handle_at": "304, 0, 0, 0",
    "typing into a terminal": "16, 0, 0x5412, 0",
    "limits of another process": "302, 1, 7, 0, 0",
    "the same call of x32": "0x40000027",
    "a call of tomorrow": "500",
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are of x86-64")
@each_sandbox
async def test_system_calls_that_lead_out_are_refused(
    toolbox: Toolbox, tmp_path: Path, confined: Confined, sandbox: str
) -> None:
    (tmp_path / "a").touch()
    calls = "\n".join(
        f"ctypes.set_errno(0); r = call({arguments}); "
        f"print({name!r}, r, errno.errorcode.get(ctypes.get_errno()), sep=':')"
        for name, arguments in CALLS.items()
    )
    program = f"""
import ctypes, errno
call = ctypes.CDLL(None, use_errno=True).syscall
{calls}
print('getpid', call(39) > 0, sep=':')
"""
    (tmp_path / "calls.py").write_text(program, encoding="utf-8")

    async with toolbox(bash=confined(sandbox)) as call:
        output = await ran(call, f"'{sys.executable}' calls.py")

    *refused, allowed = output.splitlines()
    assert allowed == "getpid:True"
    found = {line.split(":")[0]: line.split(":", 1)[1] for line in refused}
    assert {
        each: found.get(each)
        for each in CALLS
        if found.get(each)
        not in (
            "-1:EPERM",
            "-1:ENOSYS",
        )
    } == {}


@each_sandbox
async def test_a_command_has_no_rights_that_come_back(
    toolbox: Toolbox, confined: Confined, sandbox: str
) -> None:
    program = (
        "import ctypes; call = ctypes.CDLL(None).prctl; "
        "print([call(23, each) for each in range(41)].count(1), call(39, 0, 0, 0, 0))"
    )

    async with toolbox(bash=confined(sandbox)) as call:
        output = await ran(call, f"'{sys.executable}' -c '{program}'")

    # Without a right to it, nobody can be kept from what a program of root would give; the
    # second number says that none does.
    can_drop = os.geteuid() == 0 or sandbox == "bubblewrap"
    assert output == ("0 1\n" if can_drop else "40 1\n")


async def test_what_was_replaced_between_two_commands_is_what_the_next_one_finds(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str
) -> None:
    root, shown = tmp_path / "root", tmp_path / "shown"
    root.mkdir()
    shown.mkdir()
    (shown / "what").write_text("old", encoding="utf-8")
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "readable": [str(shown)]}

    async with toolbox(roots=[str(root)], bash=bash) as call:
        first = await ran(call, f"cat {shown}/what")
        shown.rename(tmp_path / "away")
        shown.mkdir()
        (shown / "what").write_text("new", encoding="utf-8")
        second = await ran(call, f"cat {shown}/what")

    assert (first, second) == ("old", "new")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to hide")
async def test_what_is_hidden_stays_so_when_it_is_replaced(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, root = tmp_path / "etc", tmp_path / "root"
    for each in (system, root):
        each.mkdir()
    secret = system / "key"
    secret.write_text("old", encoding="utf-8")
    secret.chmod(0o600)
    monkeypatch.setattr("kaizen_tools._sandbox.PRIVATE_IN", (str(system),))
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "readable": [str(system)]}

    async with toolbox(roots=[str(root)], bash=bash) as call:
        first = await ran(call, f"cat {secret}")
        (system / "next").write_text("new", encoding="utf-8")
        (system / "next").replace(secret)
        second = await ran(call, f"cat {secret}")

    assert ("old" in first, "new" in second) == (False, False)


async def test_what_is_hidden_and_is_replaced_meanwhile_ends_the_command(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has something to hide")
    system, root = tmp_path / "etc", tmp_path / "root"
    for each in (system, root):
        each.mkdir()
    secret = system / "key"
    secret.touch(mode=0o600)
    os.mkfifo(root / "ready")
    monkeypatch.setattr("kaizen_tools._sandbox.PRIVATE_IN", (str(system),))
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "readable": [str(system)]}
    results = []

    async def run(call: Any) -> None:
        command = f"echo >ready; while ! cat {secret}; do sleep 0.001; done; sleep 60"
        results.append(await call("bash_command", command=command))

    async with toolbox(roots=[str(root)], bash=bash) as call:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, call)
                await run_sync(text, root / "ready", abandon_on_cancel=True)
                (system / "next").touch(mode=0o600)
                (system / "next").replace(secret)

    assert results[0]["stderr"].endswith(
        "[stopped: somebody else replaced what was protected or hidden]"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("moment", ["before", "while"])
async def test_what_is_mounted_outside_is_not_writable_inside(
    tmp_path: Path, bubblewrap: str, moment: str
) -> None:
    """As systemd has it, mounts spread to the namespaces below; and so did this one."""
    (tmp_path / "shown/point").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    os.mkfifo(tmp_path / "root/ready")
    program = tmp_path / "program.py"
    program.write_text(MOUNTING, encoding="utf-8")
    own = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c"]
    words = [sys.executable, str(program), str(tmp_path), bubblewrap, moment]
    shared = 'mount --make-rshared / && exec "$@"'

    start = partial(subprocess.run, capture_output=True, text=True, check=False, timeout=30)
    done = await run_sync(start, [*own, shared, "sh", *words])

    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert (done.stdout, done.stderr) == ("kept\n", "")


MOUNTING = """
import os, subprocess, sys
from pathlib import Path
import anyio
from kaizen import Kernel, Tool
from kaizen_tools import ToolsPlugin

base, bubblewrap, moment = sys.argv[1:]
point = f"{base}/shown/point"

def mount():
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    Path(point, "file").write_text("kept\\n")

async def main():
    shown = [base + "/shown"]
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "readable": shown}
    settings = {"tools": {"roots": [base + "/root"], "bash": bash}}
    plugins = [ToolsPlugin]
    options = {"discover": False, "config_file": False, "environ": {}}
    async with Kernel(plugins=plugins, settings=settings, **options) as kernel:
        tool = await kernel.get(Tool, "bash_command")
        async def run(command):
            return await tool.invoke({"command": command, "timeout_s": 20.0}, None)
        await run("true")
        await anyio.sleep(0.2)  # until the next command is prepared
        if moment == "before":
            mount()
            await run(f"rm {point}/file; echo spoiled >{point}/file")
        else:
            async with anyio.create_task_group() as tasks:
                write = f"rm {point}/file; echo no >{point}/file"
                tasks.start_soon(run, f"echo >ready; read _ <ready; {write}")
                ready = Path(base, "root/ready")
                await anyio.to_thread.run_sync(ready.read_text)
                mount()
                await anyio.to_thread.run_sync(ready.write_text, "go")
    print(Path(point, "file").read_text(), end="")

anyio.run(main)
"""


@pytest.mark.parametrize("part", ["/bwrap", "/cat", "_spawner.py"])
async def test_a_command_runs_though_what_waits_for_it_was_killed(
    toolbox: Toolbox, bubblewrap: str, part: str
) -> None:
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap}

    async with toolbox(bash=bash) as call:
        await ran(call, "true")
        with anyio.fail_after(10):
            while not (found := await run_sync(waiting, part)):
                await anyio.lowlevel.checkpoint()
        os.kill(found[-1], 9)
        with anyio.fail_after(10):
            result = await call("bash_command", command="echo runs")
            while result["exit_code"] == 137:  # It was chosen before it was gone.
                result = await call("bash_command", command="echo runs")

    assert (result["exit_code"], result["stdout"], result["stderr"]) == (0, "runs\n", "")


def waiting(part: str) -> list[int]:
    """Return the processes below this one of a program, if the set of them is complete."""
    found: dict[int, str] = {}
    below = [os.getpid()]
    while below:
        process = below.pop()
        below += children_of(process)
        with suppress(OSError):
            words = text(Path(f"/proc/{process}/cmdline")).split("\0")
            found[process] = " ".join(words[:4])
    is_complete = any("/cat" in line for line in found.values())
    chosen = [process for process, line in found.items() if part in line]
    return sorted(chosen) if is_complete else []


async def test_bubblewrap_that_fails_and_leaves_something_is_told_of_at_once(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    failing = tmp_path / "failing"
    script = f"#!/bin/sh\nsleep 60 {tmp_path} &\necho no such luck >&2\nexit 1\n"
    failing.write_text(script.replace(f" {tmp_path}", ""), encoding="utf-8")
    failing.chmod(0o755)
    bash = {"sandbox": "bubblewrap", "bubblewrap": str(failing)}

    async with toolbox(bash=bash) as call:
        with anyio.fail_after(8), pytest.raises(ConfigurationError, match="no such luck"):
            await call("bash_command", command="true")


async def test_a_root_in_a_directory_that_is_kept_can_be_changed(
    toolbox: Toolbox, tmp_path: Path, bubblewrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        pytest.skip("root can make something everywhere")
    (tmp_path / "sub").mkdir()
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "protected": [".env"]}

    async with toolbox(roots=[str(tmp_path), str(tmp_path / "sub")], bash=bash) as call:
        await run_sync(tmp_path.chmod, 0o555)
        output = await ran(call, f"chmod 755 {tmp_path}; touch .env; touch sub/here")
        await run_sync(tmp_path.chmod, 0o755)

    assert output.count("Read-only file system") >= 1
    assert names(tmp_path) == ["sub"]
    assert (tmp_path / "sub/here").exists()


def names(directory: Path) -> list[str]:
    """Return what is in a directory, or nothing if it is gone."""
    return [path.name for path in directory.iterdir()] if directory.exists() else []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to hide")
async def test_what_was_replaced_beside_what_is_hidden_is_found_under_landlock(
    toolbox: Toolbox, tmp_path: Path, landlock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, root = tmp_path / "etc", tmp_path / "root"
    for each in (system, root):
        each.mkdir()
    (system / "key").touch(mode=0o600)
    (system / "hosts").write_text("old", encoding="utf-8")
    monkeypatch.setattr("kaizen_tools._sandbox.PRIVATE_IN", (str(system),))
    monkeypatch.setattr("kaizen_tools._sandbox.SYSTEM", (*_sandbox.SYSTEM, str(system)))

    async with toolbox(roots=[str(root)], bash={"sandbox": "landlock"}) as call:
        first = await ran(call, f"cat {system}/hosts")
        (system / "next").write_text("new", encoding="utf-8")
        (system / "next").replace(system / "hosts")
        second = await ran(call, f"cat {system}/hosts")

    assert (first, second) == ("old", "new")


async def test_what_is_temporary_is_private_though_the_usual_place_is_a_root(
    toolbox: Toolbox, bubblewrap: str
) -> None:
    usual = "/tmp"
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap, "protected": []}

    async with toolbox(roots=[usual], bash=bash) as call:
        output = await ran(call, "mktemp; echo $TMPDIR")

    made, place = output.split()
    assert made.startswith(place)
    assert not place.startswith(usual + "/")
    assert place != usual
    assert Path(place).name not in names(Path(place).parent)


@each_sandbox
async def test_the_home_of_a_command_is_below_no_root(
    toolbox: Toolbox,
    tmp_path: Path,
    confined: Confined,
    sandbox: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command before it could put something there."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    async with toolbox(bash=confined(sandbox)) as call:
        home = await ran(call, "echo $HOME")

    assert not home.startswith(str(tmp_path))


async def test_a_command_may_kill_all_else_and_goes_on(
    toolbox: Toolbox, bubblewrap: str
) -> None:
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap}
    command = (
        "sleep 60 & kill -9 -1; echo x >/proc/1/fd/0; (sleep 0 &); "
        "sleep 0.5; echo still; ls /proc"
    )

    async with toolbox(bash=bash) as call:
        result = await call("bash_command", command=command)

    first, *rest = result["stdout"].split()
    assert (result["exit_code"], first) == (0, "still")
    # This one, `ls`, and the one that holds all; what has ended is gone.
    assert len([name for name in rest if name.isdigit()]) <= 3


async def test_a_command_is_given_no_way_out_of_its_namespaces(
    toolbox: Toolbox, bubblewrap: str
) -> None:
    """A directory that was opened outside would be one, and so would a namespace."""
    bash = {"sandbox": "bubblewrap", "bubblewrap": bubblewrap}

    async with toolbox(bash=bash) as call:
        opened = await ran(call, "readlink /proc/self/fd/* | sort -u")
        seen = await ran(call, "cat /proc/[0-9]*/comm; readlink /proc/[0-9]*/cwd")

    kinds = {line.partition(":")[0] for line in opened.splitlines()}
    assert kinds <= {"pipe", "/dev/null"}
    assert "python" not in seen


@each_sandbox
async def test_processes_outside_are_neither_signalled_nor_limited(
    toolbox: Toolbox, confined: Confined, sandbox: str
) -> None:
    victim = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220
    command = f"""
        kill {victim.pid}; kill -9 {victim.pid}; kill -STOP {victim.pid}; pkill -9 sleep
        prlimit --pid {victim.pid} --cpu=1; renice -n 19 -p {victim.pid}
        taskset -p 1 {victim.pid}; ionice -c 3 -p {victim.pid}; chrt -i -p 0 {victim.pid}
        kill -9 -1
    """
    try:
        before = await run_sync(of_process, victim.pid)
        async with toolbox(bash=confined(sandbox)) as call:
            await call("bash_command", command=command)
        after = await run_sync(of_process, victim.pid)
        ended = victim.poll()
    finally:
        victim.kill()
        victim.wait()

    assert ended is None
    assert before == after


def of_process(pid: int) -> tuple[object, ...]:
    fields = (
        Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    )
    limits = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8")
    return (fields[0] in "TZX", fields[16], limits, os.sched_getaffinity(pid))
