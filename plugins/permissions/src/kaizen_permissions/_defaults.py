"""What holds unless somebody says something else."""

from __future__ import annotations

__all__ = ["ALLOW", "PROTECTED", "PROTECTED_NAMES"]

ALLOW = (
    "list_directory(@roots/)",
    "file_exists(@roots/)",
    "search_files(@roots/)",
    "grep(@roots/)",
    "read_file(@roots/)",
    "bash_command(@reads)",
)
"""What the settings allow: to look around in the roots."""

PROTECTED_NAMES = (
    ".git/",
    ".gitconfig",
    ".gitmodules",
    ".hg/",
    ".svn/",
    ".husky/",
    ".ssh/",
    ".env",
    ".env.*",
    ".*rc",
    ".*profile",
    ".zshenv",
    ".zlog*",
    ".bash_log*",
    ".kaizen*/",
    "kaizen.toml",
    ".mcp.json",
    ".vscode/",
    ".idea/",
)
"""Files, and with a slash folders, that make programs do something when they change."""

PROTECTED = (
    *(f"@roots/**/{name}" for name in PROTECTED_NAMES),
    *(f"~/{name}" for name in PROTECTED_NAMES),
)
"""What a person has to approve each change of, whatever allow rules say."""
