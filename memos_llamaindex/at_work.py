"""Which agent's turn it is, found out from within a step of a workflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memos_core.errors import MissingExtra

try:
    from llama_index.core.agent.workflow import AgentWorkflow, CodeActAgent, ReActAgent
    from llama_index.core.workflow import Context, WorkflowRuntimeError
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["AgentAtWork", "agent_at_work"]


@dataclass(frozen=True, slots=True)
class AgentAtWork:
    """An agent in its turn.

    Attributes:
        name: Its name within an ``AgentWorkflow``; None elsewhere.
        takes_system: It takes the first system message for its own and drops it.
    """

    name: str | None = None
    takes_system: bool = False


async def agent_at_work() -> AgentAtWork:
    """Return the agent whose turn it is; one without a name outside of a workflow."""
    try:
        context = Context.get_step_context()
    except WorkflowRuntimeError:
        return AgentAtWork()
    name = await context.store.get("current_agent_name", default=None)
    return AgentAtWork(str(name) if name else None, takes_system(context, name))


def takes_system(context: Context[Any], name: str | None) -> bool:
    """Tell whether the agent drops the first system message, as two of LlamaIndex's do that have no system prompt."""
    # A step's context does not show its workflow in public; where it is not found, nothing is known of the agent.
    workflow = getattr(getattr(context, "_face", None), "_workflow", None)
    agent = workflow.agents.get(name or "") if isinstance(workflow, AgentWorkflow) else workflow
    return isinstance(agent, ReActAgent | CodeActAgent) and not agent.system_prompt
