"""`kaizen run` runs an agent that stands in a file, a module or a declaration."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Cli, Terminal

AGENT = '''
from kaizen import BaseAgent, InputField, OutputField, Signature

class Count(Signature):
    """Count the words."""

    text: str = InputField(desc="What is counted")
    sizes: list[int] = InputField(default_factory=list)
    count: int = OutputField()
    answer: str = OutputField()

agent = BaseAgent({"llm_provider": "sample"}, Count)
'''
DECLARATION = """
name = "brief"
signature = "question -> answer: str, confidence: float"
instructions = "Be brief."
provider = "sample"

[config]
max_cycles = 3
"""


@pytest.fixture
def agent() -> Path:
    path = Path("agents") / "counter.py"
    path.parent.mkdir()
    path.write_text(AGENT, encoding="utf-8")
    return path


@pytest.fixture
def declaration() -> Path:
    path = Path("brief.toml")
    path.write_text(DECLARATION, encoding="utf-8")
    return path


def test_an_agent_in_a_file_is_run(
    kaizen: Cli, sample: tuple[str, ...], agent: Path
) -> None:
    shown = kaizen("run", *sample, agent, "text=one two")

    assert shown.code == 0
    assert shown.out == "count: 3\nanswer: I read: text: one two\n\nsizes: []\n"
    assert "1 turn" in shown.err


def test_json_holds_outputs_of_every_type(
    kaizen: Cli, sample: tuple[str, ...], agent: Path
) -> None:
    shown = kaizen("run", *sample, agent, "text=one", "sizes=[1, 2]", "--json")

    assert shown.json["outputs"] == {
        "count": 3,
        "answer": "I read: text: one\n\nsizes: [1, 2]",
    }
    assert shown.json["cycles"] == 1


def test_a_name_in_a_file_or_module_may_be_given(
    kaizen: Cli, sample: tuple[str, ...], agent: Path
) -> None:
    for target in (f"{agent}:agent", "agents.counter:agent", "agents.counter:Count"):
        shown = kaizen("run", *sample, "-p", "sample", target, "text=one", "--json")

        assert shown.json["outputs"]["count"] == 3, target


def test_a_declared_agent_is_run_with_its_instructions(
    kaizen: Cli, sample: tuple[str, ...], declaration: Path
) -> None:
    shown = kaizen("run", *sample, declaration, "question=Why?", "--json", "-m", "system")

    assert shown.code == 0
    assert "Be brief." in shown.json["outputs"]["answer"]


def test_a_provider_on_the_command_line_is_stronger_than_the_agents(
    kaizen: Cli, sample: tuple[str, ...], agent: Path, declaration: Path
) -> None:
    for target, given in ((agent, "text=one"), (declaration, "question=Why?")):
        shown = kaizen("run", *sample, target, given, "-p", "other")

        assert shown.code == 1
        assert "'other' is unknown" in shown.err


def test_a_model_alone_goes_to_the_provider_of_the_agent(
    kaizen: Cli, sample: tuple[str, ...], declaration: Path
) -> None:
    keyed = ("--plugin", "sample_providers:Keyed")

    for model in ("system", "elsewhere/big"):
        shown = kaizen("run", *sample, *keyed, declaration, "question=Why?", "-m", model)

        assert "keyed" not in shown.out
        assert shown.code == 0, shown.err


@pytest.mark.parametrize("field", ["provider", "model"])
def test_a_model_alone_goes_to_the_provider_that_an_agent_names_with_a_model(
    kaizen: Cli, sample: tuple[str, ...], field: str
) -> None:
    declared = f'signature = "question -> answer"\n{field} = "keyed/big"'
    Path("brief.toml").write_text(declared, encoding="utf-8")
    keyed = ("--plugin", "sample_providers:Keyed")

    shown = kaizen("run", *sample, *keyed, "brief.toml", "question=Why?", "-m", "small")

    assert shown.out == "I am small of keyed.\n", shown.err


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        (("-m", "keyed/big"), "big"),
        (("-p", "keyed", "-m", "sample/big"), "sample/big"),  # with `-p`, it is all a name
        (("-p", "keyed/big"), "big"),
    ],
)
def test_a_model_with_its_provider_is_stronger_than_the_provider_of_the_agent(
    kaizen: Cli, sample: tuple[str, ...], typed: tuple[str, ...], asked: str
) -> None:
    declared = 'signature = "question -> answer"\nprovider = "sample"\nmodel = "broken"'
    Path("brief.toml").write_text(declared, encoding="utf-8")
    keyed = ("--plugin", "sample_providers:Keyed")

    shown = kaizen("run", *sample, *keyed, "brief.toml", "question=Why?", *typed)

    assert shown.out == f"I am {asked} of keyed.\n", shown.err


@pytest.mark.parametrize(
    ("declared", "asked"),
    [
        ('provider = "sample"\nmodel = "big"', ""),
        ('provider = "sample/big"', ""),
        ('model = "sample/big"', ""),
        ('model = "big"', ""),
        ('provider = "keyed"\nmodel = "big"', "big"),
        ('provider = "keyed/big"', "big"),
        ('model = "keyed/big"', "big"),
    ],
)
def test_a_provider_alone_is_asked_for_no_model_of_another(
    kaizen: Cli, sample: tuple[str, ...], declared: str, asked: str
) -> None:
    whole = f'signature = "question -> answer"\n{declared}'
    Path("brief.toml").write_text(whole, encoding="utf-8")
    options = ("--plugin", "sample_providers:Keyed", "-p", "keyed")

    shown = kaizen("run", *sample, *options, "brief.toml", "question=Why?")

    assert shown.out == f"I am {asked} of keyed.\n"


def test_a_model_says_who_answers_for_an_agent_that_names_nobody(
    kaizen: Cli, sample: tuple[str, ...]
) -> None:
    Path("brief.toml").write_text('signature = "question -> answer"', encoding="utf-8")
    keyed = ("--plugin", "sample_providers:Keyed")

    shown = kaizen("run", *keyed, "brief.toml", "question=Why?", "-m", "keyed/big")
    refused = kaizen("run", *sample, "brief.toml", "question=Why?", "-m", "gpt-4o")

    assert shown.out == "I am big of keyed.\n"
    assert refused.code == 1
    assert "finds no provider for the model 'gpt-4o'" in refused.err


@pytest.mark.parametrize(
    ("default", "typed", "asked"),
    [
        ("", ("-m", "small"), "far/small of keyed"),
        ("", ("-m", "near/small"), "near/small of keyed"),
        ("", ("-p", "far"), "far/big of keyed"),
        ("keyed", ("-m", "small"), "small of keyed"),
    ],
)
def test_a_name_that_a_provider_takes_beside_its_own_counts_where_it_does_for_agents(
    kaizen: Cli,
    monkeypatch: pytest.MonkeyPatch,
    default: str,
    typed: tuple[str, ...],
    asked: str,
) -> None:
    if default:
        monkeypatch.setenv("KAIZEN_DEFAULT_PROVIDER", default)
    declared = 'signature = "question -> answer"\nmodel = "far/big"'
    Path("brief.toml").write_text(declared, encoding="utf-8")
    plugins = ("--plugin", "sample_providers:Keyed", "--plugin", "sample_providers:Routes")

    shown = kaizen("run", *plugins, "brief.toml", "question=Why?", *typed)

    assert shown.out == f"I am {asked}.\n", shown.err


def test_an_agent_that_names_only_a_model_is_not_left_to_offline(kaizen: Cli) -> None:
    declared = 'signature = "question -> answer"\nmodel = "keyed/big"'
    Path("brief.toml").write_text(declared, encoding="utf-8")
    keyed = ("--plugin", "sample_providers:Keyed")

    shown = kaizen("run", *keyed, "brief.toml", "question=Why?")

    assert shown.out == "I am big of keyed.\n"


def test_an_agent_that_names_offline_is_given_no_other_model(
    kaizen: Cli, sample: tuple[str, ...]
) -> None:
    declared = 'signature = "question -> answer"\nprovider = "offline"'
    Path("brief.toml").write_text(declared, encoding="utf-8")

    shown = kaizen("run", *sample, "brief.toml", "question=Why?", "-m", "openai/gpt-4o")

    assert shown.code == 1
    assert "is to ask `offline`, which has no model 'openai/gpt-4o'" in shown.err


def test_inputs_are_read_from_a_file_and_from_standard_input(
    kaizen: Cli,
    sample: tuple[str, ...],
    declaration: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("inputs.json").write_text('{"question": "From a file?"}', encoding="utf-8")
    Path("question.txt").write_text("From a text?", encoding="utf-8")

    by_file = kaizen("run", *sample, declaration, "--input", "inputs.json", "--json")
    by_text = kaizen("run", *sample, declaration, "question=@question.txt", "--json")
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"question": "From a pipe?"}'))
    by_pipe = kaizen("run", *sample, declaration, "--json", "-")

    assert "From a file?" in by_file.json["outputs"]["answer"]
    assert "From a text?" in by_text.json["outputs"]["answer"]
    assert "From a pipe?" in by_pipe.json["outputs"]["answer"]


def test_stream_prints_the_text_while_it_is_written(
    kaizen: Cli, sample: tuple[str, ...]
) -> None:
    Path("talk.toml").write_text(
        'signature = "message -> reply"\nprovider = "sample"', encoding="utf-8"
    )

    shown = kaizen("run", *sample, "talk.toml", "message=Hello", "--stream")

    assert shown.out == "You said: message: Hello\n"


def test_inputs_that_do_not_fit_are_explained(
    kaizen: Cli, sample: tuple[str, ...], agent: Path
) -> None:
    shown = kaizen("run", *sample, agent, "txt=one")

    assert shown.code == 1
    assert "'text' is missing" in shown.err
    assert "did you mean 'text'?" in shown.err
    assert "sizes (list[int], optional)" in shown.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere.py"], "There is no file 'nowhere.py'"),
        (["counter"], "neither a file (agent.py, agent.toml) nor a MODULE:NAME"),
        (["nowhere:agent"], "There is no module 'nowhere'"),
        (["agents/counter.py:other"], "It has agent."),
        (["json:dumps"], "is a function, and no agent or signature"),
        (["agents/counter.py", "text"], "'text' is no input. Write KEY=VALUE"),
        (["agents/counter.py", "sizes=[1"], "sizes is not valid JSON"),
        (["agents/counter.py", "text=@none.txt"], "'none.txt' cannot be read"),
        (["agents/counter.py", "--stream", "--json"], "exclude each other"),
        (["agents/counter.py", "--input", "list.json"], "must hold a JSON object"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_explained(
    kaizen: Cli,
    sample: tuple[str, ...],
    agent: Path,
    arguments: list[str],
    problem: str,
) -> None:
    Path("list.json").write_text("[1]", encoding="utf-8")

    shown = kaizen("run", *sample, *arguments)

    assert shown.code == 2
    assert problem in shown.err
    assert shown.out == ""


def test_a_file_that_fails_is_named_with_the_line(kaizen: Cli) -> None:
    Path("wrong.py").write_text("import os\n\nos.nothing\n", encoding="utf-8")

    shown = kaizen("run", "wrong.py")

    assert shown.code == 1
    assert "AttributeError" in shown.err
    assert "Raised by wrong.py, line 3." in shown.err


def test_a_declaration_with_an_unknown_key_is_refused(kaizen: Cli) -> None:
    Path("wrong.toml").write_text('signature = "a -> b"\nmodle = "x"', encoding="utf-8")

    shown = kaizen("run", "wrong.toml")

    assert shown.code == 1
    assert "'modle' is unknown; known: signature, instructions" in shown.err


def test_an_agent_with_a_kernel_of_its_own_keeps_it(kaizen: Cli) -> None:
    code = f"""
import sample_plugins
from kaizen import Kernel
{AGENT}
kernel = Kernel(plugins=[sample_plugins.SampleModel], discover=False, config_file=False)
agent = BaseAgent({{"llm_provider": "sample"}}, Count, kernel=kernel)
"""
    Path("own.py").write_text(code, encoding="utf-8")

    for options in ((), ("-m", "any")):
        shown = kaizen("run", "own.py", "text=one", "--json", *options)

        assert shown.json["outputs"]["count"] == 3


def test_hostile_outputs_are_written_out(
    kaizen: Cli, sample: tuple[str, ...], declaration: Path
) -> None:
    shown = kaizen("run", *sample, declaration, "question=x", "-m", "hostile")
    streamed = kaizen(
        "run", *sample, declaration, "question=x", "-m", "hostile", "--stream"
    )

    assert "\x1b" not in shown.out + streamed.out
    assert "\\x1b[31mred" in shown.out
    assert json.loads(streamed.out.splitlines()[0])["confidence"] == 0.75


def test_standard_input_is_not_read_in_the_event_loop(
    kaizen: Cli,
    sample: tuple[str, ...],
    declaration: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Pipe(io.StringIO):
        def read(self, size: int | None = -1, /) -> str:
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            return super().read(size)

    monkeypatch.setattr(sys, "stdin", Pipe('{"question": "From a pipe?"}'))

    shown = kaizen("run", *sample, declaration, "--json", "-")

    assert shown.code == 0
    assert "From a pipe?" in shown.json["outputs"]["answer"]


def test_the_first_ctrl_c_ends_a_wait_for_standard_input(
    on_terminal: Callable[..., Terminal], agent: Path
) -> None:
    agent.write_text(f"{AGENT}\nprint('loaded', flush=True)\n", encoding="utf-8")
    terminal = on_terminal("run", str(agent), "-")
    terminal.wait_for("loaded")

    terminal.type("\x03")

    assert terminal.finish(again="\x03") == 130
    assert "Interrupted." in terminal.seen
