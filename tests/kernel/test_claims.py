"""Claims: who may write a run, for how long, and when a process counts as gone."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from kaizen import claims
from kaizen.claims import Claim, held_by_another, is_gone, is_run_id, new_owner
from kaizen.errors import CheckpointSaveError

YEAR_S = 365 * 86_400.0
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/ns/pid").exists(), reason="only /proc tells who has ended"
)


class Clocks:
    """The clocks of a machine: one that jumps as one likes, and one that does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = 1_700_000_000.0
        self.steady = 1_000.0
        monkeypatch.setattr(claims, "time", lambda: self.wall)
        monkeypatch.setattr(claims, "monotonic", lambda: self.steady)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture(params=["of this machine", "unknown"])
def boot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which start of the machine it is, or that nobody can tell."""
    boot = "" if request.param == "unknown" else "460c8902-5ef0-4c1e"
    start_again(monkeypatch, boot)
    return boot


def start_again(monkeypatch: pytest.MonkeyPatch, boot: str) -> None:
    monkeypatch.setattr(claims, "_boot", lambda: boot)


def claimed(before: Claim | None, owner: str, lease_s: float = 60.0) -> Claim:
    return Claim.next(before, "run", owner=owner, lease_s=lease_s)


# Leases.


@pytest.mark.usefixtures("boot")
def test_a_run_is_held_until_its_lease_ends(clocks: Clocks) -> None:
    claim = claimed(None, "a", 60)

    assert (claim.owner, claim.token, claim.held()) == ("a", 1, True)
    clocks.pass_by(59.5)
    assert claim.held()
    with pytest.raises(CheckpointSaveError):
        claimed(claim, "b")
    clocks.pass_by(0.5)
    assert not claim.held()
    assert claimed(claim, "b").held()


@pytest.mark.usefixtures("boot")
def test_who_holds_a_run_extends_the_lease_and_keeps_the_token(clocks: Clocks) -> None:
    claim = claimed(None, "a", 60)
    for _ in range(5):
        clocks.pass_by(50)
        claim = claimed(claim, "a", 60)
        assert (claim.token, claim.held()) == (1, True)


@pytest.mark.usefixtures("boot")
def test_who_comes_back_before_anybody_else_keeps_the_token(clocks: Clocks) -> None:
    claim = claimed(None, "a", 60)
    clocks.pass_by(1_000)
    assert claimed(claim, "a").token == 1


@pytest.mark.usefixtures("boot")
def test_a_lease_may_be_made_shorter(clocks: Clocks) -> None:
    claim = claimed(claimed(None, "a", 600), "a", 10)
    clocks.pass_by(11)
    assert not claim.held()


@pytest.mark.parametrize("lease_s", [0, 0.0, -1, -YEAR_S, float("-inf"), float("nan")])
def test_a_lease_of_no_time_gives_the_run_up(lease_s: float) -> None:
    claim = claimed(claimed(None, "a", 60), "a", lease_s)

    assert not claim.held()
    assert claim.until == claim.until  # a number, which every store can keep
    assert claimed(claim, "b").token == 2


@pytest.mark.usefixtures("boot")
@pytest.mark.parametrize("lease_s", [claims.MAX_LEASE_S, YEAR_S, 1e300, float("inf")])
def test_no_lease_is_longer_than_a_week(clocks: Clocks, lease_s: float) -> None:
    claim = claimed(None, "a", lease_s)

    assert claim.held()
    clocks.pass_by(claims.MAX_LEASE_S)
    assert not claim.held()


def test_nobody_gives_up_what_somebody_else_holds() -> None:
    claim = claimed(None, "a", 60)
    with pytest.raises(CheckpointSaveError):
        claimed(claim, "b", 0)


@pytest.mark.usefixtures("boot")
def test_the_token_grows_with_each_change_of_owner_and_at_no_other_time(
    clocks: Clocks,
) -> None:
    claim: Claim | None = None
    tokens = []
    for owner in "aabbbacca":
        claim = claimed(claim, owner, 60)
        tokens.append(claim.token)
        clocks.pass_by(60)
    assert tokens == [1, 1, 2, 2, 2, 3, 4, 4, 5]


@pytest.mark.usefixtures("boot")
@pytest.mark.parametrize("seed", range(40))
def test_three_owners_never_hold_one_run_at_once(clocks: Clocks, seed: int) -> None:
    chance = random.Random(seed)
    claim: Claim | None = None
    last, token, ends = "", 0, float("-inf")  # what a reader of the rules would note down
    tokens: dict[str, int] = {}

    for _ in range(200):
        clocks.pass_by(chance.choice([0.0, 0.25, 1.0, 7.5, 30.0]))
        owner = chance.choice("abc")
        lease_s = chance.choice([0.0, 0.5, 5.0, 20.0])
        allowed = owner == last or clocks.steady >= ends
        if not allowed:
            with pytest.raises(CheckpointSaveError):
                claimed(claim, owner, lease_s)
        else:
            claim = claimed(claim, owner, lease_s)
            token += owner != last
            last, ends = owner, clocks.steady + lease_s
            tokens[owner] = claim.token
        assert claim is not None
        assert (claim.owner, claim.token) == (last, token)
        assert claim.held() == (clocks.steady < ends)
        for writer, mine in tokens.items():
            assert may_write(claim, mine) == (writer == last)
        assert may_write(claim, None) == (clocks.steady >= ends)


def may_write(claim: Claim | None, token: int | None) -> bool:
    try:
        Claim.check(claim, "run", token)
    except CheckpointSaveError:
        return False
    return True


# What a token opens.


def test_only_the_token_of_the_last_claim_opens_a_run() -> None:
    claim = claimed(claimed(claimed(None, "a", 0), "b", 0), "c", 60)
    assert [token for token in range(-1, 6) if may_write(claim, token)] == [3]


def test_a_run_that_nobody_ever_claimed_opens_without_a_token_only() -> None:
    assert may_write(None, None)
    assert not may_write(None, 1)
    assert not may_write(None, 0)


def test_a_run_that_was_given_up_opens_without_a_token() -> None:
    claim = claimed(None, "a", 60)
    assert not may_write(claim, None)
    assert may_write(claimed(claim, "a", 0), None)


@pytest.mark.usefixtures("boot")
def test_who_slept_longer_than_its_lease_writes_until_somebody_else_comes(
    clocks: Clocks,
) -> None:
    asleep = claimed(None, "a", 60)
    clocks.pass_by(3_600)
    assert may_write(asleep, asleep.token)

    taken = claimed(asleep, "b", 60)

    assert not may_write(taken, asleep.token)
    assert may_write(taken, taken.token)


def test_a_writer_that_was_replaced_is_told_so() -> None:
    claim = claimed(claimed(None, "a", 0), "b", 60)
    with pytest.raises(CheckpointSaveError, match="run 'run' was taken over by another"):
        Claim.check(claim, "run", 1)


def test_who_wants_a_run_hears_in_plain_words_who_has_it() -> None:
    claim = claimed(None, "pid 7 on myhost:space:7:123:abcdef", 60)

    error = held_by_another("r1", claim)

    assert "run 'r1' is carried out by pid 7 on myhost." in str(error)
    assert "abcdef" not in str(error)


# Clocks that jump, and machines that start again.


@needs_proc
@pytest.mark.parametrize("jump", [YEAR_S, -YEAR_S, 1.5e9, -1.7e9])
def test_a_clock_that_jumps_neither_ends_nor_lengthens_a_lease(
    clocks: Clocks, jump: float
) -> None:
    claim = claimed(None, new_owner(), 60)

    clocks.wall += jump

    assert claim.held()
    clocks.pass_by(59)
    assert claim.held()
    clocks.pass_by(1)
    assert not claim.held()


@pytest.mark.parametrize("jump", [YEAR_S, -YEAR_S])
def test_a_lease_begun_while_the_clock_was_wrong_is_as_long_as_any(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    start_again(monkeypatch, "this start")
    clocks.wall += jump
    claim = claimed(None, "a", 60)
    clocks.wall -= jump

    clocks.pass_by(59)
    assert claim.held()
    clocks.pass_by(1)
    assert not claim.held()


def test_a_lease_from_another_start_is_judged_by_the_time_of_day(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_again(monkeypatch, "before")
    claim = claimed(None, "a", 60)
    start_again(monkeypatch, "after")
    clocks.steady = 3.0

    clocks.wall += 59
    assert claim.held()
    clocks.wall += 1
    assert not claim.held()


def test_where_nobody_tells_which_machine_it_is_the_time_of_day_counts(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_again(monkeypatch, "")
    claim = claimed(None, "a", 60)
    clocks.steady += YEAR_S  # it may be the clock of another machine
    assert claim.held()
    clocks.wall += 60
    assert not claim.held()


@pytest.mark.parametrize("steady", [0.0, 1_000.0, 1e12])
def test_the_steady_clock_of_another_start_says_nothing(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch, steady: float
) -> None:
    start_again(monkeypatch, "before")
    claim = claimed(None, "a", 60)
    start_again(monkeypatch, "after")
    clocks.steady = steady
    assert claim.held()
    clocks.wall += 60
    assert not claim.held()


@pytest.mark.parametrize("back", [claims.MAX_LEASE_S, YEAR_S, 1.69e9])
def test_a_lease_from_another_start_never_lasts_longer_than_a_week(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch, back: float
) -> None:
    start_again(monkeypatch, "before")
    claim = claimed(None, "a", 60)
    start_again(monkeypatch, "after")

    clocks.wall -= back

    assert not claim.held()
    assert claimed(claim, "b").token == 2


@pytest.mark.usefixtures("boot")
@pytest.mark.parametrize("until", [1e300, float("inf"), float("nan"), float("-inf"), -1.0])
def test_an_end_that_no_lease_has_is_no_lease(clocks: Clocks, until: float) -> None:
    claim = replace(claimed(None, "a", 60), until=until, until_monotonic=until)
    assert not claim.held()


# Whether a process has ended.


@contextmanager
def another_process(first: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that says its owner's name and waits until its input ends."""
    code = f"{first}\nimport sys; from kaizen.claims import new_owner"
    code += "\nprint(new_owner(), flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@needs_proc
def test_a_process_that_dies_loses_its_claim_at_once() -> None:
    with another_process() as (process, owner):
        claim = claimed(None, owner, 3_600)
        assert not is_gone(owner)
        assert claim.held()
        with pytest.raises(CheckpointSaveError):
            claimed(claim, new_owner())

        process.kill()
        process.wait(10)

        assert is_gone(owner)
        assert not claim.held()
        assert claimed(claim, new_owner()).token == 2


@needs_proc
def test_a_process_whose_end_nobody_noticed_has_ended() -> None:
    with another_process() as (process, owner):
        assert not is_gone(owner)

        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert Path(f"/proc/{process.pid}/stat").exists()
        assert is_gone(owner)


@needs_proc
def test_a_number_that_another_process_has_now_does_not_keep_a_claim() -> None:
    with another_process() as (_, owner):
        readable, space, pid, started, salt = owner.split(":")
        before = ":".join([readable, space, pid, str(int(started) - 1), salt])
        assert is_gone(before)
        assert not is_gone(owner)


@needs_proc
def test_a_process_with_an_odd_name_is_still_found() -> None:
    name = "a) Z 1 (b"
    with another_process(f"open('/proc/self/comm', 'w').write({name!r})") as (
        process,
        owner,
    ):
        stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
        assert name in stat
        assert owner.split(":")[3] == stat.rpartition(")")[2].split()[19]
        assert not is_gone(owner)


@needs_proc
def test_a_process_that_proc_hides_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with another_process() as (process, owner):
        hidden = Path("/proc/self/hidden")
        monkeypatch.setattr(
            claims, "Path", lambda name: hidden if name.endswith("/stat") else Path(name)
        )
        assert not is_gone(owner)
        process.kill()
        process.wait(10)
        assert is_gone(owner)


NO_FILES_LEFT = """
import os, resource
from kaizen.claims import is_gone, new_owner

owner = new_owner()
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
opened = []
try:
    while True:
        opened.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    gone = is_gone(owner)
for each in opened:
    os.close(each)
print(len(opened) > 0, gone)
"""


@needs_proc
def test_without_file_descriptors_nobody_is_taken_for_dead() -> None:
    said = subprocess.run(
        [sys.executable, "-c", NO_FILES_LEFT], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["True", "False"]


def test_this_process_is_not_gone() -> None:
    owner = new_owner()
    assert not is_gone(owner)
    assert claimed(None, owner).held()


@needs_proc
@pytest.mark.parametrize(
    ("place", "text"),
    [
        pytest.param(2, "0", id="no number"),
        pytest.param(2, "00001", id="zeros"),
        pytest.param(2, "-1", id="negative"),
        pytest.param(2, "99999999", id="huge"),
        pytest.param(2, "9" * 30, id="larger than a word"),
        pytest.param(2, "9" * 100_000, id="longer than Python reads"),
        pytest.param(2, "\N{ARABIC-INDIC DIGIT THREE}", id="digits of another script"),
        pytest.param(2, "\N{SUPERSCRIPT TWO}", id="superscript"),
        pytest.param(2, "self", id="a name in proc"),
        pytest.param(2, "1/../2", id="path"),
        pytest.param(2, "1\0", id="null"),
        pytest.param(2, "1\n", id="newline"),
        pytest.param(2, " 1", id="blank"),
        pytest.param(2, "", id="nothing"),
        pytest.param(1, "", id="no space"),
        pytest.param(1, "460c8902-0000/4026531836", id="other machine"),
        pytest.param(1, "/4026531836", id="machine unknown"),
        pytest.param(3, "", id="start unknown"),
    ],
)
def test_who_is_foreign_or_hostile_never_counts_as_gone(place: int, text: str) -> None:
    parts = new_owner().split(":")
    parts[3] = "1"
    assert is_gone(":".join(parts))

    parts[place] = text

    assert not is_gone(":".join(parts))


@needs_proc
@pytest.mark.parametrize(
    "change",
    [
        lambda owner: "",
        lambda owner: "a",
        lambda owner: "::::",
        lambda owner: owner.rpartition(":")[0],
        lambda owner: owner + ":",
        lambda owner: ":" + owner,
        lambda owner: owner + ":x" * 100_000,
        lambda owner: owner.replace(":", ";"),
    ],
)
def test_a_name_of_another_form_never_counts_as_gone(change: object) -> None:
    assert callable(change)
    with another_process() as (process, owner):
        process.kill()
        process.wait(10)
        assert is_gone(owner)
        assert not is_gone(change(owner))


def test_where_nobody_tells_which_machine_it_is_nobody_counts_as_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_again(monkeypatch, "")
    parts = new_owner().split(":")
    parts[3] = "1"
    assert not is_gone(":".join(parts))


# Names.


def test_an_owner_is_named_so_that_a_person_can_read_it() -> None:
    readable = new_owner().partition(":")[0]
    assert re.fullmatch(rf"pid {os.getpid()} on [^:]{{1,64}}", readable)


@pytest.mark.parametrize("host", ["my:host", "::1", "x" * 500])
def test_an_odd_host_name_does_not_spoil_the_name_of_an_owner(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    owner = new_owner()
    assert owner.count(":") == 4
    assert len(owner) < 200


def test_two_owners_of_one_process_are_two() -> None:
    assert len({new_owner() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text", ["a", "A.b-c_d", "_x", "0", "run..1", "x" * 128, "0198-a3f2.child-1"]
)
def test_an_id_of_a_run_is_a_file_name_on_every_system(text: str) -> None:
    assert is_run_id(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", ".a", "-a", "a/b", "a\\b", "a\0", "a\n", "a b", "ä", "x" * 129, "a:b"],
)
def test_what_a_file_system_might_change_is_no_id_of_a_run(text: str) -> None:
    assert not is_run_id(text)
