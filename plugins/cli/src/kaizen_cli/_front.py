"""What `kaizen` understands. Imports nothing heavy: commands are imported when they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click

from kaizen_cli._options import Options

__all__ = ["front"]

Function = TypeVar("Function", bound=Callable[..., Any])

_EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, path_type=Path)

EXAMPLES = """\b
Examples:
  kaizen ask "When does the harbour open?" docs notes.txt
  kaizen run agent.py question="What is a kernel?"
  kaizen chat --provider openai --model gpt-4o-mini
  kaizen runs list
  kaizen plugins list
  kaizen new plugin weather
"""


class Front(click.Group):
    """Knows its own commands, those that plugins announce, and those that they register."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        found = super().get_command(context, name)
        if found is None and name in {point.name for point in announced()}:
            return Foreign(name)
        return found

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(context, name)
        if command is None and not name.startswith("-"):
            command = Foreign(name)
        if command is None:
            return super().resolve_command(context, args)
        return name, command, args[1:]

    def format_commands(
        self, context: click.Context, formatter: click.HelpFormatter
    ) -> None:
        own = [(name, each.get_short_help_str(60)) for name, each in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(own)
        foreign = [
            (point.name, summary(point))
            for point in announced()
            if point.name not in self.commands
        ]
        if foreign:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(foreign)


class Foreign(click.Command):
    """A command of a plugin: all that follows its name is the plugin's to read."""

    def __init__(self, name: str) -> None:
        super().__init__(name, add_help_option=False, callback=self._run)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        context.params = {"arguments": tuple(args)}
        return []

    @staticmethod
    @click.pass_context
    def _run(context: click.Context, arguments: tuple[str, ...]) -> int:
        from kaizen_cli import _foreign

        name = context.info_name or ""
        code = _foreign.run(context.obj, name, arguments)
        if code is None:
            known = [*front.commands, *(point.name for point in announced())]
            raise click.UsageError(unknown(name, known), context.parent)
        return code


class Section(click.Group):
    """A group of commands that explains itself where none, or a misspelt one, is named."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(context, args or ["--help"])

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise click.UsageError(unknown(args[0], self.commands), context)
        return super().resolve_command(context, args)


def announced() -> list[Any]:
    """Return the entry points of commands, without importing what they point to."""
    from importlib.metadata import entry_points

    return sorted(entry_points(group="kaizen.commands"), key=lambda point: point.name)


def summary(point: Any) -> str:
    """Say what can be said of a plugin's command without importing it."""
    if point.dist is None:
        return ""
    described = point.dist.metadata.get("Summary") or ""
    return f"{described} ({point.dist.name})" if described else f"({point.dist.name})"


def unknown(name: str, known: Iterable[str]) -> str:
    """Say that there is no such command, and which one may have been meant."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(names)}."
    return f"There is no command {name!r}. {hint}"


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            options = context.ensure_object(Options)
            if isinstance(value, tuple):  # some may stand before the name, some behind
                value = [*getattr(options, name), *value]
            setattr(options, name, value)

    return keep


def _no_color(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Options).color = False


def common(*, hidden: bool = True) -> Callable[[Function], Function]:
    """Give a command the options that may stand before or behind its name."""
    made = [
        click.option(
            "--config",
            type=_EXISTING_FILE,
            metavar="FILE",
            callback=_keep("config"),
            help="The configuration file; naming it is trusting it.",
            **_quiet(hidden),
        ),
        click.option(
            "--plugin",
            multiple=True,
            metavar="MODULE:CLASS",
            callback=_keep("plugins"),
            help="Enable a plugin that is not installed; may be repeated.",
            **_quiet(hidden),
        ),
        click.option(
            "--debug",
            is_flag=True,
            callback=_keep("debug"),
            help="Show the traceback of an error, and the log.",
            **_quiet(hidden),
        ),
        click.option(
            "--no-color",
            is_flag=True,
            callback=_no_color,
            help="Use no colours; NO_COLOR does the same.",
            **_quiet(hidden),
        ),
    ]

    def decorate(function: Function) -> Function:
        for option in reversed(made):
            function = option(function)
        return function

    return decorate


def _quiet(hidden: bool) -> dict[str, Any]:
    return {"expose_value": False, "hidden": hidden}


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    import platform
    from importlib.metadata import version

    click.echo(f"kaizen {version('kaizen-cli')} (Python {platform.python_version()})")
    context.exit()


provider_option = click.option(
    "--provider",
    "-p",
    metavar="NAME",
    help="Who answers; else who is configured, or `offline` if no model is named either.",
)
model_option = click.option(
    "--model",
    "-m",
    default="",
    metavar="NAME",
    help="Which model; without -p, PROVIDER/MODEL also says whose.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
no_keep_option = click.option(
    "--no-keep", is_flag=True, help="Do not keep the run; `kaizen runs` will not know it."
)
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 92}


@click.group(
    cls=Front,
    invoke_without_command=True,
    context_settings=SETTINGS,
    epilog=EXAMPLES,
    subcommand_metavar="COMMAND ...",
)
@common(hidden=False)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_context
def front(context: click.Context) -> int:
    """Run AI agents whose inputs and outputs are typed.

    `kaizen COMMAND --help` explains a command. The options below may also stand behind it.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    return 0


@front.command(
    epilog="""\b
Examples:
  kaizen ask "Who signs the lease?" contract.md
  kaizen ask "Where are retries configured?" src docs --verbose
  kaizen ask "How many islands are there?" notes --json | jq -r .answer
"""
)
@click.argument("question")
@click.argument("paths", nargs=-1, type=_EXISTING)
@provider_option
@model_option
@click.option("--verbose", "-v", is_flag=True, help="Print each step to standard error.")
@json_option
@no_keep_option
@common()
@click.pass_obj
def ask(options: Options, /, **given: Any) -> int:
    """Answer a question from files.

    An agent lists, searches and reads the PATHS, files or folders, and answers with the
    places it found. Without PATHS it looks in the working directory. It changes nothing.
    """
    if not given["question"].strip():
        raise click.UsageError("The question is empty.", click.get_current_context())
    from kaizen_cli import _ask

    return _ask.ask(options, **given)


@front.command(
    epilog="""\b
Examples:
  kaizen run review.py text="Loved it"
  kaizen run review.py text=@review.txt --json
  kaizen run my_package.agents:reviewer --input inputs.json
  echo '{"text": "Loved it"}' | kaizen run review.toml --json -
"""
)
@click.argument("target")
@click.argument("inputs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--input",
    "input_file",
    metavar="FILE",
    help="Read the inputs from a file of JSON; `-` is standard input.",
)
@provider_option
@model_option
@click.option("--stream", is_flag=True, help="Print the text while it is written.")
@click.option("--verbose", "-v", is_flag=True, help="Print each step to standard error.")
@json_option
@no_keep_option
@common()
@click.pass_obj
def run(options: Options, /, **given: Any) -> int:
    """Run an agent once.

    TARGET is a Python file (`agent.py`, or `agent.py:name`), a module (`module:name`) or a
    declaration (`agent.toml`). In Python, the name leads to an agent or a signature; by
    default it is `agent`, then `signature`.

    Inputs are written KEY=VALUE; lists and tables as JSON, KEY=@FILE takes the text of a
    file, and a lone `-` reads all inputs as JSON from standard input.
    """
    from kaizen_cli import _run

    return _run.run(options, **given)


@front.command()
@click.argument("paths", nargs=-1, type=_EXISTING)
@provider_option
@model_option
@no_keep_option
@common()
@click.pass_obj
def chat(options: Options, /, **given: Any) -> int:
    """Talk with a model, which may read the PATHS.

    `/help` lists what you can type. Ctrl+C stops an answer, Ctrl+D ends the conversation.
    Where standard input is a pipe, each line is a message.
    """
    from kaizen_cli import _chat

    return _chat.chat(options, **given)


@front.group(
    cls=Section,
    epilog="""\b
Examples:
  kaizen runs list --status crashed
  kaizen runs show 3f2a
  kaizen runs resume 3f2a agent.py
  kaizen runs fork 3f2a:14
  kaizen runs prune --older-than 30d
""",
)
@common()
def runs() -> None:
    """See, resume, steer and delete the runs that were kept.

    RUN is the id of a run, or the beginning of one; CHECKPOINT is RUN:POSITION, as
    `kaizen runs show` lists them.
    """


_STATUSES = (
    *("running", "paused", "waiting", "crashed", "ready"),
    *("completed", "failed", "interrupted", "cancelled", "damaged"),
)


@runs.command("list")
@click.option("--agent", metavar="ID", help="Only runs of one agent.")
@click.option(
    "--status",
    type=click.Choice(_STATUSES),
    metavar="STATUS",
    help=f"Only runs of one status: {', '.join(_STATUSES)}.",
)
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=1),
    default=20,
    metavar="N",
    help="Show the newest N; by default 20.",
)
@click.option("--all", "with_children", is_flag=True, help="Also those inside other runs.")
@json_option
@common()
@click.pass_obj
def list_runs(options: Options, /, **given: Any) -> int:
    """List the runs, newest first.

    A run that is `running` is carried out right now; a `crashed` one has not ended, and
    nobody carries it out; one that is `ready` was forked or rewound and has not gone on;
    one that is `waiting` needs an answer, or a decision about a tool call.
    """
    from kaizen_cli import _runs

    return _runs.list_all(options, **given)


@runs.command("show")
@click.argument("run")
@click.option("--log", "with_log", is_flag=True, help="Show every entry of its log.")
@json_option
@common()
@click.pass_obj
def show_run(options: Options, /, **given: Any) -> int:
    """Show what a run did, what it took, and how it can go on."""
    from kaizen_cli import _runs

    return _runs.show(options, **given)


@runs.command(
    "resume",
    epilog="""\b
Examples:
  kaizen runs resume 3f2a agent.py
  kaizen runs resume 3f2a agent.py --decision call_7=done
  kaizen runs resume 91bc docs notes.txt      (a run of `kaizen ask`)
""",
)
@click.argument("run")
@click.argument("given", nargs=-1, metavar="[TARGET]")
@click.option(
    "--decision",
    "-d",
    "decisions",
    multiple=True,
    metavar="[CALL=]WORD",
    help="What became of a tool call that was cut off: `repeat` if it did nothing, `done` "
    "if it did its work, `skip` to go on without it. Without CALL it is said of all.",
)
@provider_option
@model_option
@click.option("--verbose", "-v", is_flag=True, help="Print each step to standard error.")
@json_option
@common()
@click.pass_obj
def resume_run(options: Options, /, **given: Any) -> int:
    """Let a run go on that was interrupted, failed or crashed.

    It does nothing twice that is on record. TARGET is what `kaizen run` takes; it has to be
    typed, since nothing is imported because a record says so. A run of `kaizen ask` or
    `kaizen chat` takes the paths that it may read instead.
    """
    from kaizen_cli import _resume

    return _resume.resume(options, **given)


_yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


@runs.command("fork")
@click.argument("checkpoint")
@json_option
@common()
@click.pass_obj
def fork_run(options: Options, /, **given: Any) -> int:
    """Begin another run, with the past of one.

    They share it up to the CHECKPOINT, or up to its end where only a RUN is named.
    """
    from kaizen_cli import _changes

    return _changes.fork_run(options, **given)


@runs.command("rewind")
@click.argument("checkpoint")
@_yes_option
@json_option
@common()
@click.pass_obj
def rewind_run(options: Options, /, **given: Any) -> int:
    """Let a run go back to a checkpoint.

    Its log keeps what it did since, and what its tools did stays done.
    """
    from kaizen_cli import _changes

    return _changes.rewind_run(options, **given)


@runs.command("prune")
@click.option("--older-than", metavar="TIME", help="Such as 12h, 30d or 8w.")
@click.option(
    "--keep", type=click.IntRange(min=0), metavar="N", help="Keep the newest N whatever."
)
@click.option(
    "--unfinished", is_flag=True, help="Also runs that could go on: crashed, interrupted."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@_yes_option
@json_option
@common()
@click.pass_obj
def prune_runs(options: Options, /, **given: Any) -> int:
    """Delete old runs, for good.

    Runs that are carried out stay, and so do those that could go on.
    """
    from kaizen_cli import _changes

    return _changes.prune(options, **given)


@runs.command("export")
@click.argument("run")
@click.option("--output", "-o", type=_FILE, metavar="FILE", help="Write to a file.")
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@common()
@click.pass_obj
def export_run(options: Options, /, **given: Any) -> int:
    """Write the log of a run as JSON, one entry a line.

    Of a log that is damaged, it writes what stands before the damage.
    """
    from kaizen_cli import _runs

    return _runs.export(options, **given)


@runs.command("pause")
@click.argument("run")
@json_option
@common()
@click.pass_obj
def pause_run(options: Options, run: str, as_json: bool) -> int:
    """Let a run under way wait before its next step."""
    from kaizen_cli import _control

    return _control.tell(options, run, {"command": "pause"}, as_json=as_json)


@runs.command("continue")
@click.argument("run")
@json_option
@common()
@click.pass_obj
def continue_run(options: Options, run: str, as_json: bool) -> int:
    """Let a paused run go on."""
    from kaizen_cli import _control

    return _control.tell(options, run, {"command": "resume"}, as_json=as_json)


@runs.command("steer")
@click.argument("run")
@click.argument("text")
@json_option
@common()
@click.pass_obj
def steer_run(options: Options, run: str, text: str, as_json: bool) -> int:
    """Say something to the model of a run.

    The model reads it at its next turn; of a run that was stopped, once that goes on.
    """
    from kaizen_cli import _control

    return _control.steer(options, run, text, as_json=as_json)


@runs.command("stop")
@click.argument("run")
@click.option("--now", is_flag=True, help="At once, not after the present turn.")
@click.option("--cancel", is_flag=True, help="At once, to give it up.")
@click.option("--message", metavar="TEXT", default="", help="Why, for the log.")
@json_option
@common()
@click.pass_obj
def stop_run(options: Options, /, **given: Any) -> int:
    """Stop a run under way, after its turn.

    `kaizen runs resume` lets it go on.
    """
    from kaizen_cli import _control

    return _control.stop(options, **given)


@front.command()
@click.argument("provider", required=False)
@json_option
@common()
@click.pass_obj
def models(options: Options, provider: str | None, as_json: bool) -> int:
    """List the models that can be used, or those of a PROVIDER.

    With what each reads, how long it may be, and what a million tokens cost.
    """
    from kaizen_cli import _models

    return _models.models(options, provider, as_json=as_json)


@front.command()
@json_option
@common()
@click.pass_obj
def doctor(options: Options, as_json: bool) -> int:
    """Say what is in order here: plugins, providers, the store.

    The exit code is 1 if something is not.
    """
    from kaizen_cli import _models

    return _models.doctor(options, as_json=as_json)


@front.group(cls=Section)
@common()
def plugins() -> None:
    """See which plugins are installed, and whether they work."""


@plugins.command("list")
@json_option
@common()
@click.pass_obj
def list_plugins(options: Options, as_json: bool) -> int:
    """List the installed plugins."""
    from kaizen_cli import _plugins

    return _plugins.list_all(options, as_json=as_json)


@plugins.command("show")
@click.argument("name")
@json_option
@common()
@click.pass_obj
def show_plugin(options: Options, name: str, as_json: bool) -> int:
    """Show what a plugin does, offers, and is set to."""
    from kaizen_cli import _plugins

    return _plugins.show(options, name, as_json=as_json)


@plugins.command("doctor")
@json_option
@common()
@click.pass_obj
def examine_plugins(options: Options, as_json: bool) -> int:
    """Start every enabled plugin, and say what to do if one fails.

    The exit code is then 1.
    """
    from kaizen_cli import _plugins

    return _plugins.doctor(options, as_json=as_json)


@front.group(cls=Section)
@common()
def new() -> None:
    """Write the first version of a plugin or an agent."""


_directory_option = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where to write it; by default the working directory.",
)


@new.command("plugin")
@click.argument("name")
@_directory_option
@common()
@click.pass_obj
def new_plugin(options: Options, name: str, directory: Path) -> int:
    """Write a plugin with a hook, a setting, a tool and tests that pass."""
    from kaizen_cli import _new

    return _new.plugin(options, name, directory)


@new.command("agent")
@click.argument("name")
@_directory_option
@common()
@click.pass_obj
def new_agent(options: Options, name: str, directory: Path) -> int:
    """Write an agent in one file, for `kaizen run`."""
    from kaizen_cli import _new

    return _new.agent(options, name, directory)


@front.command()
@click.argument("file", required=False, type=_FILE, default=Path("kaizen.toml"))
@click.option("--forget", is_flag=True, help="Trust it no longer.")
@common()
@click.pass_obj
def trust(options: Options, file: Path, forget: bool) -> int:
    """Let the kaizen.toml of a directory take effect.

    A kaizen.toml that lies in the working directory may have come with a repository. It is
    ignored until you trust it, and again once it has changed.
    """
    from kaizen_cli import _trust

    return _trust.trust(options, file, forget=forget)
