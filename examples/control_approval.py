"""A person approves exactly one call: what is shown is what runs, and it runs once.

The person is played by a task here. At a terminal it would be you: set `channel = "cli"`.
"""

import anyio
from kaizen import BaseAgent, Kernel, ToolUse, tool
from kaizen_control import ControlProtocol, MemoryTransport

MAILBOX: list[str] = []


@tool(danger="medium", external=True)
async def send_mail(to: str, text: str) -> str:
    """Send a mail.

    Args:
        to: Who gets it.
        text: What it says.
    """
    MAILBOX.append(f"{to}: {text}")
    return "sent"


SCRIPT = [
    ToolUse(id="1", name="send_mail", arguments={"to": "Ada", "text": "Lunch at one?"}),
    ToolUse(id="2", name="send_mail", arguments={"to": "all", "text": "Free lunch!"}),
    {"answer": "I asked Ada; the other mail was not wanted."},
]


async def person(transport: MemoryTransport) -> None:
    """Say yes to a mail to Ada, and no to every other."""
    async for request in transport:
        arguments = request.details["arguments"]
        yes = arguments["to"] == "Ada"
        print(f"{request.text} {arguments} -> {'yes' if yes else 'no'}")
        comment = "" if yes else "not to everybody"
        await transport.answer(request, approved=yes, text=comment, principal="me")


async def main() -> None:
    """Let an agent write two mails."""
    transport = MemoryTransport()
    config = {"llm_provider": "mock", "provider_config": {"replies": SCRIPT}}
    async with Kernel() as kernel, ControlProtocol(transport) as protocol:
        agent = BaseAgent(
            config,
            "task -> answer",
            tools=[send_mail],
            control_protocol=protocol,
            kernel=kernel,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(person, transport)
            result = await agent.run(task="Find company for lunch.")
            tasks.cancel_scope.cancel()
    for message in result.messages:
        if message.role == "tool":
            print(f"{message.name}: {message.text}")
    print(MAILBOX)


anyio.run(main)
