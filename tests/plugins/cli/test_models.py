"""`kaizen models` and `kaizen doctor` say what can be asked, and what is in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Cli

KEYED = ("--plugin", "sample_providers:Keyed")
KEYLESS = ("--plugin", "sample_providers:Keyless")
BROKEN = ("--plugin", "sample_plugins:Broken")


def test_models_are_listed_with_limits_and_prices(kaizen: Cli) -> None:
    shown = kaizen("models", *KEYED)

    lines = {tuple(line.split()[:2]): line for line in shown.out.splitlines()}
    assert shown.code == 0
    assert lines["keyed", "big"].split() == [
        *("keyed", "big", "200,000", "yes", "text,", "image", "2.5", "10")
    ]
    assert lines["keyed", "small"].split()[2:] == ["?", "no", "text", "?", "?"]


def test_what_cannot_be_used_is_listed_only_if_it_is_asked_for(kaizen: Cli) -> None:
    assert "keyless" not in kaizen("models", *KEYED, *KEYLESS).out

    shown = kaizen("models", "keyless", *KEYED, *KEYLESS)

    assert "keyless" in shown.out
    assert "KEYLESS_API_KEY" in shown.err


def test_models_as_json(kaizen: Cli) -> None:
    (found,) = kaizen("models", "keyed", *KEYED, "--json").json

    assert (found["provider"], found["available"], found["problem"]) == ("keyed", True, "")
    assert [each["name"] for each in found["models"]] == ["big", "small"]
    assert found["models"][0]["input_usd_per_million"] == "2.5"


def test_a_provider_that_nobody_offers_is_an_error_that_names_those_there_are(
    kaizen: Cli,
) -> None:
    shown = kaizen("models", "keyd", *KEYED)

    assert shown.code == 1
    assert "keyed" in shown.err


def test_where_nothing_can_be_used_that_is_said(kaizen: Cli) -> None:
    shown = kaizen("models", *KEYLESS)

    assert (shown.code, shown.out) == (0, "")
    assert "no key is set" in shown.err


def checks(shown: Any) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["state"], each["detail"]) for each in shown.json["checks"]}


def test_the_doctor_says_who_can_be_asked_and_who_is_asked_by_default(kaizen: Cli) -> None:
    found = checks(kaizen("doctor", *KEYED, *KEYLESS, "--json"))

    assert found["provider keyed"] == ("ok", "can be used (keyed)")
    assert found["provider keyless"][0] == "off"
    assert found["default provider"] == ("ok", "keyed")
    assert found["store"][0] == "off"


def test_the_doctor_fails_where_a_plugin_does(kaizen: Cli) -> None:
    shown = kaizen("doctor", *KEYED, *BROKEN)

    assert shown.code == 1
    assert "failed  plugin broken" in shown.out
    assert "Not in order: plugin broken" in shown.out


def test_the_doctor_looks_at_the_store(kaizen: Cli) -> None:
    found = checks(kaizen("doctor", *KEYED, "--plugin", "sample_stores:Store", "--json"))

    assert found["store"][0] == "ok"


def test_the_doctor_knows_a_default_that_nobody_offers(
    kaizen: Cli, monkeypatch: Any
) -> None:
    monkeypatch.setenv("KAIZEN_DEFAULT_PROVIDER", "nosuch")

    shown = kaizen("doctor", *KEYED)

    assert shown.code == 1
    assert "nosuch, which nobody offers" in shown.out
