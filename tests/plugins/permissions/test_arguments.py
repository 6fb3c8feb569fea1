"""Specifiers: what rules see in the arguments of a call."""

from __future__ import annotations

from pathlib import Path

import pytest
from kaizen_permissions import Policy

from tests.plugins.permissions.workbench import ASK, DENY, Journal, allow, ask, deny


class TestPaths:
    """Rules about paths."""

    @pytest.mark.parametrize(
        ("pattern", "path"),
        [
            ("src/**", "src/a"),
            ("src/**", "src/a/b/c.py"),
            ("src/**", "./src//a"),
            ("src/**", "docs/../src/a"),
            ("src/", "src"),
            ("src/", "src/a/b"),
            ("src/*", "src/a"),
            ("src/*.py", "src/a.py"),
            ("src/?.py", "src/a.py"),
            ("**/*.md", "a.md"),
            ("**/*.md", "a/b/c.md"),
            ("src/**/test_*.py", "src/test_a.py"),
            ("src/**/test_*.py", "src/a/b/test_a.py"),
            ("/", "/"),
            ("/", "/etc/passwd"),
            ("notes.md", "notes.md"),
            ("notes.md", "src/../notes.md"),
            ("@roots/", "."),
            ("@roots/**", "a/b"),
            ("~/notes/**", "~/notes/a"),
            ("./docs/**", "docs/a b (1) [x] ü.md"),
        ],
    )
    def test_what_a_pattern_is_about(
        self, pattern: str, path: str, project: Path, journal: Journal
    ) -> None:
        call = journal.call("write_file", path=path, content="")

        # A path with `~` is read in two ways, and a rule that allows must hold for both.
        if not path.startswith("~"):
            assert Policy([allow(f"write_file({pattern})")], protected=()).decide(call)
        assert Policy([deny(f"write_file({pattern})")]).decide(call).type is DENY

    @pytest.mark.parametrize(
        ("pattern", "path"),
        [
            ("src/**", "src"),
            ("src/**", "srcs/a"),
            ("src/**", "src/../a"),
            ("src/**", "/src/a"),
            ("src/*", "src/a/b"),
            ("src/*.py", "src/a.pyc"),
            ("*.md", "docs/a.md"),
            ("notes.md", "notes.md.bak"),
            ("notes.md", "NOTES.md"),
            ("**/*.md", "a.mdx"),
            ("src/?.py", "src/.py"),
            ("src/a.b", "src/axb"),
        ],
    )
    def test_what_it_is_not_about(
        self, pattern: str, path: str, project: Path, journal: Journal
    ) -> None:
        call = journal.call("write_file", path=path, content="")

        assert Policy([allow(f"write_file({pattern})")]).decide(call).type is ASK

    def test_an_absolute_path_and_a_relative_one_are_one_place(
        self, project: Path, journal: Journal
    ) -> None:
        inside = journal.call("write_file", path=str(project / "src/a"), content="")
        outside = journal.call("write_file", path="../outside/a", content="")

        assert Policy([allow("write_file(src/**)")]).decide(inside)
        assert Policy([allow(f"write_file({project}/src/**)")]).decide(
            journal.call("write_file", path="src/a", content="")
        )
        assert Policy([allow(f"write_file({project.parent}/outside/*)")]).decide(outside)

    def test_a_link_counts_for_where_it_leads(
        self, project: Path, journal: Journal
    ) -> None:
        (project / "src/out").symlink_to(project.parent / "outside")
        (project / "src/key").symlink_to(project / "secret.key")
        policy = Policy([allow("read_file(src/**)"), deny("read_file(secret.key)")])

        assert policy.decide(journal.call("read_file", path="src/app/main.py"))
        assert (
            policy.decide(journal.call("read_file", path="src/out/victim.txt")).type is ASK
        )
        assert policy.decide(journal.call("read_file", path="src/key")).type is DENY

    def test_a_folder_that_is_swapped_for_a_link_is_not_the_one_that_was_named(
        self, project: Path, journal: Journal
    ) -> None:
        policy = Policy([allow("write_file(src/**)")])
        call = journal.call("write_file", path="src/victim.txt", content="")
        assert policy.decide(call)

        (project / "src").rename(project / "elsewhere")
        (project / "src").symlink_to(project.parent / "outside")

        assert policy.decide(call).type is ASK

    def test_a_path_that_can_be_read_in_two_ways_is_allowed_only_if_both_are(
        self, project: Path, journal: Journal
    ) -> None:
        deep = project / "src/a/b/c"
        deep.mkdir(parents=True)
        (project / "src/link").symlink_to(deep)
        policy = Policy([allow("write_file(src/**)")])

        # By the links it is src/a/secret, by the spelling it is outside of src.
        call = journal.call("write_file", path="src/link/../../secret", content="")

        assert policy.decide(call).type is ASK
        assert Policy([deny("write_file(secret)")]).decide(call).type is DENY

    @pytest.mark.parametrize(
        "path",
        [
            "a\0b",
            "a\nb",
            "\ud800",
            "x" * 5_000,
            "/proc/self/cwd/a",
            "/proc//1/cwd/a",
            "//proc/self/cwd/a",
            "/dev/fd/3",
            "file:///etc/passwd",
            " src/a",
            "src/a ",
            "~root/a",
            "/x/../proc/1/a",
        ],
    )
    def test_a_path_that_cannot_be_understood_is_never_allowed_and_may_be_denied(
        self, path: str, project: Path, journal: Journal
    ) -> None:
        spec = journal.tools["write_file"].spec
        arguments = {"path": path, "content": ""}

        allowing = Policy([allow("write_file(@roots/**)"), allow("write_file(/**)")])
        denying = Policy([deny("write_file(.env)"), allow("write_file")])

        assert allowing.decide("write_file", arguments, spec=spec).type is ASK
        assert denying.decide("write_file", arguments, spec=spec).type is ASK

    def test_all_paths_of_a_call_must_be_allowed_and_one_is_enough_to_deny(
        self, project: Path, journal: Journal
    ) -> None:
        policy = Policy([allow("move_file(src/**)"), allow("move_file(docs/**)")])
        denying = Policy([deny("move_file(secret.key)")])

        within = journal.call("move_file", source="src/a", destination="docs/b")
        out = journal.call("move_file", source="secret.key", destination="src/b")

        assert policy.decide(within)
        assert policy.decide(out).type is ASK
        assert denying.decide(out).type is DENY

    def test_paths_are_found_wherever_they_stand(
        self, project: Path, journal: Journal
    ) -> None:
        policy = Policy([allow("edit_many(edits=*)", -1), deny("edit_many(path=x)")])
        inside = [{"path": "src/a", "text": ""}, {"path": "secret.key", "text": ""}]

        spec = journal.tools["edit_many"].spec
        decided = Policy([deny("edit_many(secret.key)")]).decide(
            "edit_many", {"edits": inside, "path": ""}
        )

        assert decided.type is DENY
        assert policy.decide("edit_many", {"edits": inside}, spec=spec).type is ASK

    @pytest.mark.parametrize(
        "name",
        [
            *("file_name", "fileName", "outputFile", "output_file", "destinationPath"),
            *("targetDir", "filePath", "FilePath", "file-path", "path1", "srcFiles"),
            *("newFilename", "outfile", "destpath", "path_to_file", "absolutePaths"),
        ],
    )
    def test_a_path_is_known_by_its_name_however_that_is_written(
        self, name: str, project: Path
    ) -> None:
        policy = Policy([deny("save(secret.key)"), allow("save")])

        assert policy.decide("save", {name: "secret.key"}).type is DENY
        assert policy.decide("save", {name: {"secret.key": "text"}}).type is DENY
        assert policy.decide("save", {name: {"a": "secret.key"}}).type is DENY

    @pytest.mark.parametrize("name", ["profile", "xpath", "content", "text", "query"])
    def test_other_names_are_of_no_path(self, name: str, project: Path) -> None:
        policy = Policy([deny("save(secret.key)"), allow("save")])

        assert policy.decide("save", {name: "secret.key", "path": "a"})

    @pytest.mark.parametrize("path", ["SECRETS/a", "secrets/A", "Secrets", "secrets/é"])
    def test_what_refuses_does_so_in_capitals_too(
        self, path: str, project: Path, journal: Journal
    ) -> None:
        policy = Policy([deny("read_file(secrets/)"), allow("read_file")])

        assert policy.decide(journal.call("read_file", path=path)).type is DENY

    def test_a_tree_without_end_is_not_understood(self, journal: Journal) -> None:
        deep: object = {"path": "a"}
        for _ in range(100):
            deep = {"edits": [deep]}

        policy = Policy([deny("edit_many(secret.key)"), allow("edit_many")])

        assert policy.decide("edit_many", {"path": "", "edits": deep}).type is ASK

    def test_the_roots_are_those_of_the_settings(
        self, project: Path, journal: Journal
    ) -> None:
        policy = Policy([allow("read_file(@roots/)")], roots=["src", "../outside"])

        def reads(path: str) -> bool:
            return bool(policy.decide(journal.call("read_file", path=path)))

        assert reads("src/app/main.py")
        assert reads("../outside/victim.txt")
        assert not reads("docs/index.md")
        assert not reads(".")


class TestUrls:
    """Rules about URLs."""

    @pytest.mark.parametrize(
        ("pattern", "url"),
        [
            ("https://api.example.com/*", "https://api.example.com/a/b?c=d#e"),
            ("https://api.example.com/*", "https://API.example.COM:443/"),
            ("https://api.example.com/*", "https://api.example.com./x"),
            ("https://api.example.com/*", "https://api.example.com"),
            ("https://api.example.com/v1/*", "https://api.example.com/v1/a"),
            ("http://localhost:8000/*", "http://localhost:8000/a"),
            ("https://*.example.com/*", "https://a.b.example.com/x"),
            ("https://bücher.example/*", "https://xn--bcher-kva.example/x"),
            ("domain:example.com", "https://example.com/a"),
            ("domain:example.com", "http://example.com"),
            ("domain:*.example.com", "https://www.example.com/"),
            ("domain:example.com:8080", "https://example.com:8080/"),
            ("https://api.example.com/a%20b/*", "https://api.example.com/a%20b/c"),
            ("http://127.0.0.1/*", "http://0x7f.1/a"),
            ("http://[::1]:80/*", "http://[0:0:0:0:0:0:0:1]/"),
        ],
    )
    def test_what_a_pattern_is_about(
        self, pattern: str, url: str, journal: Journal
    ) -> None:
        call = journal.call("http_get", url=url)

        assert Policy([allow(f"http_get({pattern})")]).decide(call)
        assert Policy([deny(f"http_get({pattern})")]).decide(call).type is DENY

    @pytest.mark.parametrize(
        ("pattern", "url"),
        [
            ("https://api.example.com/*", "http://api.example.com/"),
            ("https://api.example.com/*", "https://api.example.com:8443/"),
            ("https://api.example.com/*", "https://api.example.com.evil.com/"),
            ("https://api.example.com/*", "https://evil.com/https://api.example.com/"),
            ("https://api.example.com/*", "https://api.example.com@evil.com/"),
            ("https://api.example.com/*", "https://evil.com\\@api.example.com/"),
            ("https://api.example.com/*", "https://user:key@api.example.com/"),
            ("https://api.example.com/*", "https://api.example.com%2eevil.com/"),
            ("https://api.example.com/*", "https://api.example.com\t/"),
            ("https://api.example.com/*", "https://xapi.example.com/"),
            ("https://api.example.com/*", "//api.example.com/"),
            ("https://api.example.com/*", "ftp://api.example.com/"),
            ("https://api.example.com", "https://api.example.com/a"),
            ("https://api.example.com/v1/*", "https://api.example.com/v1/../v2/"),
            ("https://api.example.com/v1/*", "https://api.example.com/v1/%2e%2e/v2/"),
            ("https://api.example.com/v1/*", "https://api.example.com/v1/..%2fv2/"),
            ("https://api.example.com/v1/*", "https://api.example.com/v1/..%5cv2/"),
            ("https://*.example.com/*", "https://example.com/"),
            ("https://*.example.com/*", "https://example.com.evil.com/"),
            ("domain:example.com", "https://www.example.com/"),
            ("domain:example.com", "https://example.com:8080/"),
            ("domain:example.com", "https://evilexample.com/"),
            ("http://127.0.0.1/*", "http://127.0.0.2/"),
        ],
    )
    def test_what_it_is_not_about(self, pattern: str, url: str, journal: Journal) -> None:
        call = journal.call("http_get", url=url)

        assert Policy([allow(f"http_get({pattern})")]).decide(call).type is ASK

    @pytest.mark.parametrize(
        "url",
        [
            "https://EVIL.example/",
            "https://evil.example./",
            "https://www.evil.example/",
            "https://evil.example:8443/a",
            "http://evil.example",
            "https://ｅｖｉｌ.example/",
            "https://evil。example/",
            "wss://evil.example/",
        ],
    )
    def test_a_domain_that_is_refused_is_so_in_every_spelling_and_with_what_is_below_it(
        self, url: str, journal: Journal
    ) -> None:
        policy = Policy([deny("http_get(domain:evil.example)"), allow("http_get")])

        assert policy.decide(journal.call("http_get", url=url)).type is DENY

    @pytest.mark.parametrize(
        "path", ["admin", "%61dmin", "x/../admin", "x/%2e%2e/admin", "./admin?a=b"]
    )
    def test_a_path_that_is_refused_is_so_with_escapes_and_dots(
        self, path: str, journal: Journal
    ) -> None:
        policy = Policy([deny("http_get(https://a.example/admin*)"), allow("http_get")])
        call = journal.call("http_get", url=f"https://a.example/{path}")

        assert policy.decide(call).type is DENY

    @pytest.mark.parametrize(
        "host",
        [
            "2130706433",
            "0x7f000001",
            "017700000001",
            "127.1",
            "127.0.1",
            "0x7f.0.0.0x1",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "127.0.0.1.",
        ],
    )
    def test_an_address_that_is_refused_is_so_in_every_spelling(
        self, host: str, journal: Journal
    ) -> None:
        policy = Policy([deny("http_get(http://127.0.0.1/*)"), allow("http_get")])

        assert policy.decide(journal.call("http_get", url=f"http://{host}/")).type is DENY

    @pytest.mark.parametrize(
        "url",
        [
            "https://a@b/",
            "https://a%00b/",
            "javascript:1",
            "https://",
            "https://a b/",
            "https://1.2.3.4.5/",
            "https://999.1.1.1/",
            "x" * 9_000,
            "https://[::1%25eth0]/",
            "https://a:99999/",
            "https://a:0/",
            "https://*/",
            "https://a\u202eb/",
            "https://-a/",
            "https://a..b/",
        ],
    )
    def test_a_url_that_cannot_be_understood_asks(self, url: str, journal: Journal) -> None:
        policy = Policy([deny("http_get(domain:evil.example)"), allow("http_get")])
        allowing = Policy([allow("http_get(https://*/*)"), allow("http_get(domain:*)")])

        decided = policy.decide(journal.call("http_get", url=url))

        assert decided.type is ASK
        assert allowing.decide(journal.call("http_get", url=url)).type is ASK

    @pytest.mark.parametrize(
        "specifier", ["https://", "https://a@b/*", "domain:", "domain:a@b", "src/**"]
    )
    def test_a_specifier_that_is_no_pattern_never_allows_and_asks_where_it_would_deny(
        self, specifier: str, journal: Journal
    ) -> None:
        call = journal.call("http_get", url="https://example.com/")

        assert Policy([allow(f"http_get({specifier})")]).decide(call).type is ASK
        assert (
            Policy([deny(f"http_get({specifier})"), allow("http_get")]).decide(call).type
            is ASK
        )

    @pytest.mark.parametrize("name", ["targetUrl", "baseURL", "image_uri", "links"])
    def test_a_url_is_known_by_its_name(self, name: str) -> None:
        policy = Policy([deny("get(domain:evil.example)"), allow("get")])

        assert policy.decide("get", {name: "https://evil.example/"}).type is DENY


class TestValues:
    """Rules about any other argument."""

    @pytest.mark.parametrize(
        ("specifier", "fits"),
        [
            ("to=ann@example.com", True),
            ("to=*@example.com", True),
            ("to=bob@example.com", False),
            ("to=ann@example", False),
            ("to=.*", False),
            ("count=1", True),
            ("count=2", False),
            ("body=*", True),
        ],
    )
    def test_an_argument_is_compared_as_a_whole(
        self, specifier: str, fits: bool, journal: Journal
    ) -> None:
        call = journal.call("send_mail", to="ann@example.com", body="Hello\nyou", count=1)

        assert bool(Policy([allow(f"send_mail({specifier})")]).decide(call)) is fits
        assert (Policy([deny(f"send_mail({specifier})")]).decide(call).type is DENY) is fits

    def test_what_allows_goes_no_further_than_a_line(self, journal: Journal) -> None:
        call = journal.call("send_mail", to="eve@evil.example\n@example.com", body="b")

        assert Policy([allow("send_mail(to=*@example.com)")]).decide(call).type is ASK
        assert Policy([deny("send_mail(to=*@example.com)")]).decide(call).type is DENY
        assert Policy([allow("send_mail(to=*)")]).decide(call)

    def test_an_argument_that_is_a_path_is_compared_as_one(
        self, project: Path, journal: Journal
    ) -> None:
        policy = Policy([allow("move_file(destination=src/**)")])

        within = journal.call("move_file", source="a", destination="docs/../src/b")
        out = journal.call("move_file", source="src/a", destination="src/../b")

        assert policy.decide(within)
        assert policy.decide(out).type is ASK

    @pytest.mark.parametrize("specifier", ["pth=.env", "anything", "recipient=*"])
    def test_a_specifier_that_says_nothing_about_the_tool_fails_closed(
        self, specifier: str, journal: Journal
    ) -> None:
        call = journal.call("send_mail", to="a", body="b")

        assert Policy([allow(f"send_mail({specifier})")]).decide(call).type is ASK
        refusing = Policy([deny(f"send_mail({specifier})"), allow("send_mail")])
        assert refusing.decide(call).type is ASK

    def test_without_arguments_only_what_holds_for_all_of_them_is_allowed(self) -> None:
        assert Policy([allow("write_file")]).decide("write_file")
        assert not Policy([allow("write_file(src/**)")]).decide("write_file")
        assert (
            Policy([deny("write_file(.env)"), allow("write_file")])
            .decide("write_file")
            .type
            is ASK
        )
        assert (
            Policy([ask("write_file(a)"), deny("write_file")]).decide("write_file").type
            is DENY
        )
