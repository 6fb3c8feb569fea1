"""Rules say what an agent may do: by tool, by path, and by what a command would run."""

from kaizen_permissions import ExecutionContext, PermissionRule, PermissionType

ALLOW, ASK, DENY = PermissionType.ALLOW, PermissionType.ASK, PermissionType.DENY

context = ExecutionContext(
    rules=[
        PermissionRule("read_file(**)", ALLOW, "reading is harmless"),
        PermissionRule("read_file(**/*.key)", DENY, "keys are nobody's business"),
        PermissionRule("bash_command(pytest *)", ALLOW, "tests may run"),
        PermissionRule("bash_command(git push *)", DENY, "a person pushes"),
        PermissionRule("http_get(https://docs.example.com/*)", ALLOW, "our manual"),
    ],
    denied_tools={"delete_file"},
)

CALLS = [
    ("read_file", {"path": "notes/today.md"}),
    ("read_file", {"path": "notes/../secret.key"}),
    ("bash_command", {"command": "pytest -q tests"}),
    ("bash_command", {"command": "ls -l && grep -r harbour ."}),
    ("bash_command", {"command": "pytest -q; git push origin main"}),
    ("bash_command", {"command": "echo $(git push)"}),
    ("http_get", {"url": "https://docs.example.com/start"}),
    ("http_get", {"url": "https://docs.example.com.evil.test/start"}),
    ("delete_file", {"path": "notes/today.md"}),
]

for tool, arguments in CALLS:
    decided = context.can_use_tool(tool, arguments)
    (argument,) = arguments.values()
    print(f"{decided.type.value:5}  {tool}({argument})")
    print(f"       {decided.reason}")
