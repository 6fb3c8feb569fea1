"""The smallest agent: one line says what goes in and what comes out.

The provider `offline` needs no key. It is no language model: it finds the sentence that
answers. With another provider the rest of this file stays as it is.
"""

from kaizen import BaseAgent

NOTES = """
The library opens at nine and closes at six. On Sundays it stays shut.
Books may be kept for four weeks. The reading room has forty seats.
"""

agent = BaseAgent({"llm_provider": "offline"}, "notes, question -> answer")

for question in ("When does the library open?", "How long may books be kept?"):
    result = agent.run_sync(notes=NOTES, question=question)
    print(question)
    print(f"  {result.answer}")
    print(f"  {result.usage.total_tokens} tokens, ${result.cost_usd}, run {result.run_id}")
