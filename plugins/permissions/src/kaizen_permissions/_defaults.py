"""What holds unless somebody says something else."""

from __future__ import annotations

__all__ = ["ALLOW", "PROTECTED"]

ALLOW = (
    "list_directory(@roots/)",
    "file_exists(@roots/)",
    "search_files(@roots/)",
    "grep(@roots/)",
    "read_file(@roots/)",
    "bash_command(@reads)",
)
"""What the settings allow: to look around in the roots."""

PROTECTED = (
    "@roots/**/.git/",
    "@roots/**/.env",
    "@roots/**/.env.*",
    "@roots/**/.kaizen/",
    "@roots/**/kaizen.toml",
    "@roots/**/.*rc",
    "@roots/**/.*profile",
    "@roots/**/.vscode/",
    "@roots/**/.idea/",
)
"""What a person has to approve each change of, whatever allow rules say."""
