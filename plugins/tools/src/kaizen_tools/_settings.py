"""What a user may write under `[plugins.tools]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from kaizen.config import PluginSettings
from pydantic import ConfigDict, Field, StringConstraints

__all__ = ["BashSettings", "HttpSettings", "ToolsSettings"]

HostPattern = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*\.)?([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$", max_length=300
    ),
]
"""`example.com`, `*.example.com`, `example.com:8443` or `[2001:db8::1]:80`, lower case."""

PrivateHost = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9_.-]+|\[[0-9a-f:.]+\]):[0-9]{1,5}$", max_length=300
    ),
]
ProtectedName = Annotated[
    str,
    StringConstraints(
        pattern=r"^([^/\x00.][^/\x00]*|\.[^/\x00.][^/\x00]*|\.\.[^/\x00]+)"
        r"(/([^/\x00.][^/\x00]*|\.[^/\x00.][^/\x00]*|\.\.[^/\x00]+))*$",
        max_length=1000,
    ),
]
"""A path below a root, without dots that lead elsewhere."""
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]

SKIPPED = (
    ".git",
    ".hg",
    ".svn",
    ".venv",
    "venv",
    ".tox",
    ".nox",
    "node_modules",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
)


PROTECTED = (
    *(".git/hooks", ".git/config", ".git/config.worktree", ".git/commondir"),
    *(".kaizen", "kaizen.toml", ".env", ".envrc", ".mcp.json", ".vscode", ".ssh"),
    *(".bashrc", ".bash_profile", ".profile", ".zshrc"),
)
"""What other programs take for configuration, and run what it says."""


class HttpSettings(PluginSettings):
    """What the HTTP and web tools may reach, and how much of it."""

    model_config = ConfigDict(defer_build=True)

    allowed_hosts: tuple[HostPattern, ...] = Field(
        default=(),
        max_length=1000,
        description="If there are any, only these; `*.example.com` means all below it.",
    )
    denied_hosts: tuple[HostPattern, ...] = Field(
        default=(), max_length=1000, description="Never these, whatever else allows them."
    )
    allow_private: bool = Field(
        default=False,
        description="Whether addresses of this machine and of private networks are "
        "reached; never link-local ones, where clouds keep their credentials.",
    )
    private_hosts: tuple[PrivateHost, ...] = Field(
        default=(),
        max_length=1000,
        description="`host:port` that are reached wherever they are.",
    )
    max_bytes: int = Field(
        default=2_000_000,
        ge=1_000,
        le=100_000_000,
        description="Most bytes of an answer that are read, after decompression.",
    )
    max_request_bytes: int = Field(
        default=1_000_000, ge=0, le=100_000_000, description="Most bytes of a request body."
    )
    timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="Longest time for one request, redirects included, in seconds.",
    )
    max_redirects: int = Field(
        default=5, ge=0, le=20, description="Most redirects followed."
    )
    user_agent: str = Field(
        default="kaizen-tools/0.1",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$",
        description="What requests say they come from.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file with the authorities that are trusted instead of certifi's.",
    )


class BashSettings(PluginSettings):
    """How long commands may run, and what they may use up."""

    model_config = ConfigDict(defer_build=True)

    shell: Path = Field(
        default=Path("/bin/bash"),
        description="The shell; called with `-c` and the command.",
    )
    timeout_s: float = Field(
        default=600.0, gt=0, le=86_400, description="Longest time for one command, seconds."
    )
    grace_s: float = Field(
        default=2.0,
        ge=0,
        le=60,
        description="Time between SIGTERM and SIGKILL when a command is stopped, seconds.",
    )
    cpu_s: int = Field(
        default=600, ge=1, le=86_400, description="Most CPU time of a process, in seconds."
    )
    memory_mb: int = Field(
        default=4_096, ge=64, le=4_000_000, description="Most memory of a process."
    )
    file_mb: int = Field(
        default=1_024, ge=1, le=4_000_000, description="Largest file a process writes."
    )
    processes: int = Field(
        default=256, ge=4, le=100_000, description="Most processes of a command."
    )
    open_files: int = Field(
        default=1_024, ge=16, le=1_000_000, description="Most open files of a process."
    )
    max_output_bytes: int = Field(
        default=50_000_000,
        ge=1_000,
        le=10_000_000_000,
        description="A command that writes more than this is stopped.",
    )
    sandbox: Literal["auto", "bubblewrap", "landlock", "none"] = Field(
        default="auto",
        description="What confines commands; `auto` takes the first of these that works "
        "here. Without one, the tool is `CRITICAL` instead of `HIGH`.",
    )
    bubblewrap: Path | None = Field(
        default=None, description="The program bubblewrap; by default `bwrap` in PATH."
    )
    network: bool = Field(
        default=False, description="Whether commands in a sandbox reach the network."
    )
    readable: tuple[Path, ...] = Field(
        default=(),
        max_length=1000,
        description="What commands in a sandbox read beside the system and the roots.",
    )
    protected: tuple[ProtectedName, ...] = Field(
        default=PROTECTED,
        max_length=200,
        description="Names below each root that commands in a sandbox can only read, "
        "whether they exist or not.",
    )
    writable_python_path: bool = Field(
        default=False,
        description="Whether commands in a sandbox may change, below the roots, the "
        "folders that this Python imports from; its environment they never can.",
    )
    env: tuple[VariableName, ...] = Field(
        default=(),
        max_length=1000,
        description="Environment variables that are passed on; no others are.",
    )


class ToolsSettings(PluginSettings):
    """What a user may write under `[plugins.tools]`."""

    model_config = ConfigDict(defer_build=True)

    roots: tuple[Path, ...] = Field(
        default=(Path(),),
        min_length=1,
        max_length=100,
        description="Directories and files that the file tools may use.",
    )
    skip: tuple[str, ...] = Field(
        default=SKIPPED,
        max_length=1000,
        description="Names of directories that are not searched.",
    )
    max_file_bytes: int = Field(
        default=10_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Largest file that is read, written or edited.",
    )
    max_output_chars: int = Field(
        default=100_000,
        ge=10_000,
        le=10_000_000,
        description="Longest result of a tool; the rest is cut with a mark.",
    )
    search_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="After this many seconds a search gives what it has found.",
    )
    http: HttpSettings = Field(default_factory=HttpSettings)
    bash: BashSettings = Field(default_factory=BashSettings)
