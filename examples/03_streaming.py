"""Follow a run while it happens: pieces of text, and an entry for everything it does.

Every event has a place in the order of the run, so that a reader that was cut off knows
where to go on.
"""

import anyio
from kaizen import BaseAgent, Kernel, TextDelta
from kaizen.runlog import Entry

POEM = "Slowly the harbour wakes. A gull, two ropes, a kettle; then the first boat."


async def main() -> None:
    """Print each event as it comes."""
    config = {"llm_provider": "mock", "provider_config": {"replies": [POEM]}}
    async with Kernel() as kernel:
        agent = BaseAgent(config, "theme -> poem", kernel=kernel)
        async with agent.stream(theme="harbour") as run:
            async for event in run:
                match event:
                    case TextDelta():
                        print(f"  {event.position}  {event.text!r}")
                    case Entry():
                        print(f"{event.position}  {event.type}")
            result = await run.wait()
    print(result.poem)


anyio.run(main)
