"""A kernel inside an asyncio application that you already have: here, a small TCP server.

The kernel starts and stops with the application. Each connection runs the same agent, and
the runs do not disturb each other. A web framework's `lifespan` takes the same two lines.
"""

import asyncio

from kaizen import BaseAgent, KaizenError, Kernel

NOTES = "Ferries leave at seven, noon and five. Bicycles travel free. Dogs need a ticket."


async def serve(agent: BaseAgent) -> asyncio.Server:
    """Answer each line with a line, until the server is closed."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            try:
                result = await agent.run(notes=NOTES, question=line.decode().strip())
                reply = str(result.answer)
            except KaizenError as error:
                reply = f"{error.code}: {error.problem}"
            writer.write(f"{reply}\n".encode())
            await writer.drain()
        writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", 0)


async def ask(port: int, question: str) -> str:
    """Be a client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{question}\n".encode())
    reply = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return f"{question}\n  {reply.decode().strip()}"


async def main() -> None:
    """Start the application, let three clients ask at once, and stop it."""
    async with Kernel() as kernel:
        agent = BaseAgent(
            {"llm_provider": "offline"}, "notes, question -> answer", kernel=kernel
        )
        server = await serve(agent)
        port = server.sockets[0].getsockname()[1]
        replies = await asyncio.gather(
            ask(port, "When do ferries leave?"),
            ask(port, "Who needs a ticket?"),
            ask(port, "What does a cabin cost?"),
        )
        print("\n".join(replies))
        server.close()
        await server.wait_closed()


asyncio.run(main())
