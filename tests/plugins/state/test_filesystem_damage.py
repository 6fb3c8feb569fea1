"""What is damaged is never taken for what was written, and never for nothing."""

from __future__ import annotations

import errno
import gzip
import inspect
import json
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from time import time

import pytest
from kaizen.errors import (
    CheckpointError,
    CheckpointLoadError,
    CheckpointSaveError,
    StorageUnavailableError,
    UnknownRunError,
)
from kaizen.ports import StoredEntry
from kaizen.runlog import RunEnded, encode
from kaizen_state import FilesystemStorage, _archive, _claim_file, _files, _log, _writer

pytestmark = pytest.mark.anyio

once = pytest.mark.parametrize("anyio_backend", ["asyncio"])
SEGMENT = "00000000.jsonl"


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power stays on here, so that nothing needs to be synced."""

    def nothing(_: object) -> None: ...

    monkeypatch.setattr(_writer, "sync", nothing)
    monkeypatch.setattr(_files, "sync", nothing)
    monkeypatch.setattr(_files.Folder, "sync", nothing)


def noted(start: int, count: int, text: str = "") -> list[StoredEntry]:
    return [
        StoredEntry(
            seq=seq,
            type="noted",
            version=1,
            body=json.dumps({"seq": seq, "text": text}).encode(),
        )
        for seq in range(start, start + count)
    ]


def ended(seq: int) -> StoredEntry:
    return encode(RunEnded(seq=seq, at=0.0, status="completed"))


async def written(path: Path, *appends: list[StoredEntry]) -> FilesystemStorage:
    """Return a store in which a run was written by some appends."""
    store = FilesystemStorage(path)
    for entries in appends:
        await store.append("run", entries)
    return store


async def packed(path: Path) -> tuple[FilesystemStorage, list[StoredEntry]]:
    """Return a store with a packed run, and its entries."""
    entries = [*noted(0, 2), ended(2)]
    store = FilesystemStorage(path)
    token = await store.claim("run", owner="a", lease_s=60)
    await store.append("run", entries, token=token)
    await store.claim("run", owner="a", lease_s=0)
    assert (path / "run" / f"{SEGMENT}.gz").exists()
    return store, entries


def flipped(content: bytes) -> Iterator[bytes]:
    """Give the content with each of its bits flipped, one at a time."""
    for at, byte in enumerate(content):
        for bit in range(8):
            yield b"%b%c%b" % (content[:at], byte ^ (1 << bit), content[at + 1 :])


@contextmanager
def deep_stack() -> Iterator[None]:
    """Leave little room for recursion, as far down in a program."""
    limit = sys.getrecursionlimit()
    depth = len(inspect.stack(0))
    sys.setrecursionlimit(depth + 150)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@once
@pytest.mark.parametrize(
    "appends",
    [
        (noted(0, 1), noted(1, 1), noted(2, 1)),
        (noted(0, 1), noted(1, 3)),
        (noted(0, 1),),
    ],
    ids=["appends_of_one", "an_append_of_many", "only_append"],
)
async def test_a_flipped_bit_is_damage_and_nothing_is_cut_off(
    tmp_path: Path, appends: tuple[list[StoredEntry], ...]
) -> None:
    store = await written(tmp_path, *appends)
    length = sum(map(len, appends))
    segment = tmp_path / "run" / SEGMENT

    for number, altered in enumerate(flipped(segment.read_bytes())):
        segment.write_bytes(altered)
        with pytest.raises(CheckpointLoadError, match=rf"{SEGMENT}.*'run'"):
            await store.read("run")
        if number % 7 == 0:
            with pytest.raises(CheckpointSaveError):
                await store.append("run", noted(length, 1))
            assert segment.read_bytes() == altered


@once
async def test_a_flipped_bit_at_either_end_of_a_log_is_listed(tmp_path: Path) -> None:
    store = await written(tmp_path, noted(0, 1), noted(1, 1), noted(2, 2))
    segment = tmp_path / "run" / SEGMENT
    content = segment.read_bytes()
    lines = content.splitlines(keepends=True)
    start, end = len(lines[0]), len(lines[0] + lines[1])

    for number, altered in enumerate(flipped(content)):
        if start <= number // 8 < end:
            continue
        segment.write_bytes(altered)
        assert [each.status for each in await store.runs()] == ["damaged"]


async def test_of_a_run_whose_only_append_is_damaged_nothing_is_unknown(
    tmp_path: Path,
) -> None:
    store = await written(tmp_path, noted(0, 1))
    segment = tmp_path / "run" / SEGMENT
    altered = segment.read_bytes().replace(b'"text"', b'"tent"')
    segment.write_bytes(altered)

    assert [each.status for each in await store.runs()] == ["damaged"]
    with pytest.raises(CheckpointLoadError, match=r"entry 0 .*is damaged") as caught:
        await store.read("run")
    assert not isinstance(caught.value, UnknownRunError)
    with pytest.raises(CheckpointSaveError, match="is damaged"):
        await store.append("run", noted(0, 1))
    assert segment.read_bytes() == altered


@once
@pytest.mark.parametrize("count", [1, 3])
async def test_a_sector_that_was_never_written_is_no_damage(
    tmp_path: Path, count: int
) -> None:
    store = await written(tmp_path, noted(0, 1))
    segment = tmp_path / "run" / SEGMENT
    start = segment.stat().st_size
    await store.append("run", noted(1, count))
    content = segment.read_bytes()
    sector = 64

    for offset in range(sector):  # where in a sector the append begins
        edges = sorted({start, *range(start + offset, len(content), sector), len(content)})
        for at, stop in pairwise(edges):
            segment.write_bytes(content[:at] + bytes(stop - at) + content[stop:])
            assert list(await store.read("run")) == noted(0, 1), (at, stop)
            assert [each.length for each in await store.runs()] == [1]


async def test_a_damaged_run_is_as_old_as_its_files(tmp_path: Path) -> None:
    store = await written(tmp_path, noted(0, 1))
    segment = tmp_path / "run" / SEGMENT
    segment.write_bytes(b"x\n")
    os.utime(segment, (1_000_000_000, 1_000_000_000))

    (record,) = await store.runs()

    assert (record.status, record.updated_at) == ("damaged", 1_000_000_000)


@pytest.mark.parametrize("where", ["open_file", "status", "names"])
async def test_a_run_that_the_disk_cannot_read_is_listed_with_the_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    store = await written(tmp_path, noted(0, 1))
    await store.append("other", noted(0, 1))
    real = getattr(_files.Folder, where)

    def broken(self: _files.Folder, *given: object) -> object:
        if "run" in (self.path.name, *given):
            raise OSError(errno.EIO, os.strerror(errno.EIO), "run")
        return real(self, *given)

    before = time()
    monkeypatch.setattr(_files.Folder, where, broken)
    found = {each.run_id: each for each in await store.runs()}

    assert {key: each.status for key, each in found.items()} == {
        "run": "damaged",
        "other": "running",
    }
    assert found["run"].updated_at > before - 60
    assert "'run' is listed as damaged" in caplog.text


async def test_no_run_is_damaged_because_too_many_files_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await written(tmp_path, noted(0, 1))

    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(_files.Folder, "open_file", full)
    with pytest.raises(StorageUnavailableError, match="ulimit"):
        await store.runs()


@once
async def test_a_flipped_bit_in_a_packed_log_changes_nothing_or_is_damage(
    tmp_path: Path,
) -> None:
    store, entries = await packed(tmp_path)
    segment = tmp_path / "run" / f"{SEGMENT}.gz"
    same, told = 0, list[str]()

    for altered in flipped(segment.read_bytes()):
        segment.write_bytes(altered)
        try:
            assert list(await store.read("run")) == entries
            same += 1
        except CheckpointLoadError as error:
            told.append(str(error))

    assert all(SEGMENT in each for each in told)
    # Time, system and strength in the header mean nothing, nor do the bits that fill up the
    # last byte of what is packed.
    assert same <= 6 * 8 + 7


@once
async def test_a_packed_log_that_is_cut_at_any_length_is_damage(tmp_path: Path) -> None:
    store, _ = await packed(tmp_path)
    segment = tmp_path / "run" / f"{SEGMENT}.gz"
    content = segment.read_bytes()

    for length in range(len(content)):
        segment.write_bytes(content[:length])
        with pytest.raises(CheckpointLoadError, match=SEGMENT):
            await store.read("run")
    segment.write_bytes(content + b"x")
    with pytest.raises(CheckpointLoadError, match=SEGMENT):
        await store.read("run")


@once
async def test_a_flipped_bit_in_the_head_of_a_fork_is_damage(tmp_path: Path) -> None:
    store = await written(tmp_path, noted(0, 2))
    await store.fork("run", length=2, new_run_id="branch")
    head = tmp_path / "branch" / "head.json"

    for altered in flipped(head.read_bytes()):
        head.write_bytes(altered)
        with pytest.raises(CheckpointLoadError, match=r"head\.json"):
            await store.read("branch")


@once
async def test_a_flipped_bit_in_a_claim_gives_no_token_twice(tmp_path: Path) -> None:
    store = FilesystemStorage(tmp_path)
    claim = tmp_path / "run" / "claim"
    tokens = [
        await store.claim("run", owner=owner, lease_s=lease_s)
        for owner, lease_s in (("a", 0.0), ("b", 0.0), ("c", 60.0))
    ]
    content = claim.read_bytes()
    said = [at for at, byte in enumerate(content) if byte != ord(" ")]
    blank = [at for at, byte in enumerate(content) if byte == ord(" ")]

    for at in [*said, *blank[::40]]:
        for bit in range(8):
            changed = b"%b%c%b" % (content[:at], content[at] ^ 1 << bit, content[at + 1 :])
            claim.write_bytes(changed)
            with pytest.raises(CheckpointSaveError):
                await store.append("run", noted(0, 1), token=tokens[-1])
            token = await store.claim("run", owner="d", lease_s=0)
            assert token > tokens[-1]
            with pytest.raises(CheckpointSaveError):
                await store.append("run", noted(0, 1), token=tokens[-1])


@pytest.mark.parametrize("content", [b"x" * 2048, b"x", b"x" * 5_000, b"{" * 2048])
async def test_of_a_claim_of_which_nothing_is_left_no_token_is_given_twice(
    tmp_path: Path, content: bytes
) -> None:
    store = FilesystemStorage(tmp_path)
    claim = tmp_path / "run" / "claim"
    tokens = [await store.claim("run", owner="a", lease_s=60)]

    for number in range(5):
        claim.write_bytes(content)
        with pytest.raises(CheckpointSaveError, match="damaged claim"):
            await store.append("run", noted(0, 1), token=tokens[-1])
        tokens.append(await store.claim("run", owner=f"b{number}", lease_s=60))

    assert sorted(set(tokens)) == tokens
    await store.append("run", noted(0, 1), token=tokens[-1])
    await store.aclose()


async def test_a_segment_that_vanished_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "SEGMENT_BYTES", 400)
    store = FilesystemStorage(tmp_path, compress=False)
    for seq in range(9):
        await store.append("run", noted(seq, 1))
    segments = sorted((tmp_path / "run").glob("*.jsonl"))
    assert len(segments) == 3
    assert list(await store.read("run")) == noted(0, 9)

    for segment in segments:
        content = segment.read_bytes()
        segment.unlink()
        with pytest.raises(CheckpointLoadError, match="'run' lacks entry"):
            await store.read("run")
        segment.write_bytes(content)
    assert list(await store.read("run")) == noted(0, 9)


async def test_a_segment_that_was_cut_in_the_middle_of_a_log_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "SEGMENT_BYTES", 300)
    store = FilesystemStorage(tmp_path, compress=False)
    for seq in range(6):
        await store.append("run", noted(seq, 1))
    first = tmp_path / "run" / SEGMENT
    content = first.read_bytes()

    for length in range(len(content)):
        first.write_bytes(content[:length])
        with pytest.raises(CheckpointLoadError, match="'run'"):
            await store.read("run")


@pytest.mark.parametrize("name", ["0.jsonl", "00000000 (copy).jsonl", "a.jsonl.gz"])
async def test_a_foreign_segment_is_refused(tmp_path: Path, name: str) -> None:
    store = await written(tmp_path, noted(0, 2))
    (tmp_path / "run" / name).write_bytes(b"")

    with pytest.raises(CheckpointLoadError, match=r"none of its segments.*Move it"):
        await store.read("run")


async def test_lines_of_another_place_are_out_of_order(tmp_path: Path) -> None:
    store = await written(tmp_path, noted(0, 1), noted(1, 1), noted(2, 1))
    segment = tmp_path / "run" / SEGMENT
    one, two, three = segment.read_bytes().splitlines(keepends=True)

    for lines in ((one, three), (two,), (one, one), (one, two, two), (one, three, two)):
        segment.write_bytes(b"".join(lines))
        with pytest.raises(CheckpointLoadError, match="out of order"):
            await store.read("run")


def signed(rest: bytes) -> bytes:
    """Return a line with a right checksum, as somebody could who means harm."""
    size = len(b'{"crc":"00000000","size":"00000000",') + len(rest) + 1
    covered = b'"size":"%08x",' % size + rest
    return b'{"crc":"%08x",' % zlib.crc32(covered) + covered + b"\n"


HOSTILE = (
    b'"v":1,"seq":0,"first":0,"more":0,"status":"running",'
    b'"type":"noted","version":1,"body":'
)
DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "line",
    [
        HOSTILE.replace(b'"v":1', b'"v":2') + b"{}}",
        HOSTILE.replace(b'"seq":0', b'"seq":' + b"9" * 5_000) + b"{}}",
        HOSTILE.replace(b'"seq":0', b'"seq":-1') + b"{}}",
        HOSTILE.replace(b'"seq":0', b'"seq":"0"') + b"{}}",
        HOSTILE.replace(b'"more":0', b'"more":1e3') + b"{}}",
        HOSTILE.replace(b"noted", b"no\xffted") + b"{}}",
        HOSTILE.replace(b"noted", b"a\\u0000b") + b"{}}",
        DEEP + b"}",
        b"}",
    ],
    ids=range(9),
)
async def test_hostile_lines_are_refused(tmp_path: Path, line: bytes) -> None:
    store = await written(tmp_path, noted(0, 1))
    segment = tmp_path / "run" / SEGMENT
    whole = segment.read_bytes()

    segment.write_bytes(signed(line))
    with pytest.raises(CheckpointLoadError):
        await store.read("run")
    second = whole.replace(b'"seq":0,"first":0', b'"seq":1,"first":1')
    segment.write_bytes(signed(line) + signed(second[36:-1]))
    with pytest.raises(CheckpointLoadError, match=SEGMENT):
        await store.read("run")
    await store.runs()


async def test_a_newer_format_is_told_and_left_alone(tmp_path: Path) -> None:
    store = await written(tmp_path, noted(0, 1))
    segment = tmp_path / "run" / SEGMENT
    newer = segment.read_bytes() + signed(b'"v":2,"entry":{}}')
    segment.write_bytes(newer)

    with pytest.raises(
        CheckpointLoadError, match=r"version 2 of the format.*Update Kaizen"
    ):
        await store.read("run")
    with pytest.raises(CheckpointSaveError, match="Update Kaizen"):
        await store.append("run", noted(1, 1))
    assert segment.read_bytes() == newer


@pytest.mark.parametrize(
    "head",
    [
        b"null",
        b"[]",
        b'"v":1}',
        b'"v":1,"fork":["../x",1],"origin":"","deleted":false,"newest":0}',
        b'"v":1,"fork":["run",-1],"origin":"","deleted":false,"newest":0}',
        b'"v":1,"fork":["run",1e99],"origin":"","deleted":false,"newest":0}',
        b'"v":1,"fork":["run",1,2],"origin":"","deleted":false,"newest":0}',
        b'"v":1,"fork":null,"origin":0,"deleted":false,"newest":0}',
        b'"v":2}',
        DEEP,
        b'"v":' + DEEP[:4_000],
        b"x" * 10_000,
    ],
    ids=range(12),
)
async def test_a_hostile_head_is_refused(tmp_path: Path, head: bytes) -> None:
    store = await written(tmp_path, noted(0, 1))
    content = b'{"crc":"%08x",' % zlib.crc32(head) + head
    (tmp_path / "run" / "head.json").write_bytes(content)

    with pytest.raises(CheckpointLoadError, match=r"head\.json"):
        await store.read("run")
    assert [each.status for each in await store.runs()] == ["damaged"]
    await store.delete("run")
    assert list(await store.runs()) == []


@once
async def test_nested_brackets_in_a_claim_are_a_damaged_claim(tmp_path: Path) -> None:
    store = await written(tmp_path, noted(0, 1))
    rest = b'"turn":' + DEEP[: 1024 - 18 - 7]
    slot = b'{"crc":"%08x",' % zlib.crc32(rest) + rest
    (tmp_path / "run" / "claim").write_bytes(slot * 2)

    with deep_stack():
        assert _claim_file._read_slot(slot) is None
    assert await store.claim("run", owner="a", lease_s=60) > 0


def test_nested_brackets_in_an_archive_are_damage() -> None:
    rest = b'"v":' + DEEP[:400]
    comment = b'{"crc":"%08x",' % zlib.crc32(rest) + rest
    archive = _archive.pack(b"", entries=0, status="")[:10] + comment + b"\0"

    with deep_stack(), pytest.raises(CheckpointLoadError, match="damaged at its start"):
        _archive.contents(archive, where="here")


async def test_forks_that_go_round_in_a_circle_are_refused(tmp_path: Path) -> None:
    store = await written(tmp_path, noted(0, 2))
    await store.fork("run", length=2, new_run_id="branch")
    head = b'"v":1,"fork":["branch",2],"origin":"branch","deleted":false,"newest":0}\n'
    (tmp_path / "run" / SEGMENT).unlink()
    (tmp_path / "run" / "head.json").write_bytes(
        b'{"crc":"%08x",' % zlib.crc32(head) + head
    )

    for run_id in ("run", "branch"):
        with pytest.raises(CheckpointLoadError, match="lacks entry 1"):
            await store.read(run_id)
    assert {each.status for each in await store.runs()} == {"damaged"}


async def test_an_ancestor_that_vanished_is_missed(tmp_path: Path) -> None:
    store = await written(tmp_path, noted(0, 2))
    await store.fork("run", length=2, new_run_id="branch")
    (tmp_path / "run").rename(tmp_path / "elsewhere")

    with pytest.raises(CheckpointLoadError, match=r"'branch' lacks entry 1.*run 'run'"):
        await store.read("branch")


async def test_a_far_ancestor_that_vanished_hides_no_other_run(tmp_path: Path) -> None:
    store = await written(tmp_path, noted(0, 2))
    await store.fork("run", length=2, new_run_id="branch")
    await store.append("branch", noted(2, 1))
    await store.fork("branch", length=3, new_run_id="twig")
    await store.append("other", noted(0, 1))
    (tmp_path / "run").rename(tmp_path / "elsewhere")

    listed = {each.run_id: each.status for each in await store.runs()}

    assert (listed["twig"], listed["other"]) == ("damaged", "running")


async def test_what_unpacks_to_more_than_it_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = await packed(tmp_path)
    segment = tmp_path / "run" / f"{SEGMENT}.gz"
    bomb = _archive.pack(bytes(50_000_000), entries=3, status="completed")
    assert len(bomb) < 100_000
    honest = b'"bytes":50000000'
    comment = bomb[10 : bomb.index(b"\0", 10)]
    rest = comment[18:].replace(honest, b'"bytes":100')
    lying = b'{"crc":"%08x",' % zlib.crc32(rest) + rest

    segment.write_bytes(bomb.replace(comment, lying))
    with pytest.raises(CheckpointLoadError, match="damaged"):
        await store.read("run")

    monkeypatch.setattr(_log, "MAX_SEGMENT_BYTES", 1_000_000)
    segment.write_bytes(bomb)
    with pytest.raises(CheckpointLoadError, match="holds more than 1000000 bytes"):
        await store.read("run")
    segment.write_bytes(gzip.compress(b"foreign"))
    with pytest.raises(CheckpointLoadError, match="damaged at its start"):
        await store.read("run")
    assert [each.status for each in await store.runs()] == ["damaged"]


async def test_a_file_that_is_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await written(tmp_path, noted(0, 1))
    monkeypatch.setattr(_log, "MAX_SEGMENT_BYTES", 1_000_000)
    os.truncate(tmp_path / "run" / SEGMENT, 10**12)

    with pytest.raises(CheckpointLoadError, match="larger than 1000000 bytes"):
        await store.read("run")


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes")
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", [SEGMENT, "head.json"])
async def test_what_is_no_regular_file_is_refused(
    tmp_path: Path, kind: str, name: str
) -> None:
    store = await written(tmp_path / "runs", noted(0, 1))
    place = tmp_path / "runs" / "run" / name
    if place.exists():
        place.rename(tmp_path / "moved")
    if kind == "link":
        place.symlink_to(tmp_path / "moved")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()

    with pytest.raises(CheckpointLoadError, match="not a regular file"):
        await store.read("run")
    with pytest.raises(CheckpointSaveError, match="not a regular file"):
        await FilesystemStorage(tmp_path / "runs").append("run", noted(1, 1))


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
async def test_a_link_in_the_place_of_a_run_is_refused(tmp_path: Path) -> None:
    elsewhere = await written(tmp_path / "elsewhere", noted(0, 1))
    store = FilesystemStorage(tmp_path / "runs")
    await store.append("other", noted(0, 1))
    (tmp_path / "runs" / "run").symlink_to(tmp_path / "elsewhere" / "run")

    with pytest.raises(CheckpointLoadError, match="something else is at"):
        await store.read("run")
    with pytest.raises(CheckpointError):
        await store.append("run", noted(1, 1))
    with pytest.raises(CheckpointError):
        await store.claim("run", owner="a", lease_s=60)
    with pytest.raises(CheckpointError):
        await store.delete("run")
    assert list(await elsewhere.read("run")) == noted(0, 1)
    assert "damaged" in {each.status for each in await store.runs()}


async def test_what_cannot_come_back_as_it_is_is_not_written(tmp_path: Path) -> None:
    store = FilesystemStorage(tmp_path)
    odd = (
        StoredEntry(seq=0, type="noted", version=1, body=b'{"a":\n1}'),
        StoredEntry(seq=0, type='no"ted', version=1, body=b"{}"),
        StoredEntry(seq=0, type="", version=1, body=b"{}"),
        StoredEntry(seq=0, type="ä", version=1, body=b"{}"),
        StoredEntry(seq=0, type="noted", version=-1, body=b"{}"),
        StoredEntry(seq=0, type="noted", version=10**12, body=b"{}"),
        StoredEntry(seq=0, type="run_ended", version=1, body=b'{"status":"a\\"b"}'),
    )

    for entry in odd:
        with pytest.raises(CheckpointSaveError):
            await store.append("run", [entry])
    with pytest.raises(CheckpointLoadError, match="unknown"):
        await store.read("run")


async def test_nothing_is_imported_or_run_by_what_is_stored(tmp_path: Path) -> None:
    store = await written(tmp_path, noted(0, 1))
    segment = tmp_path / "run" / SEGMENT
    await store.read("run")
    events: list[str] = []
    watching = True

    def watch(event: str, _: object) -> None:
        if watching and event.startswith(("import", "exec", "compile", "pickle")):
            events.append(event)

    sys.addaudithook(watch)
    try:
        for body in (b"\"__import__('os').system('x')\"", b"\x80\x04cos\nsystem", DEEP):
            segment.write_bytes(signed(HOSTILE + body + b"}"))
            try:
                await store.read("run")
            except CheckpointLoadError:
                continue
    finally:
        watching = False
    assert events == []
