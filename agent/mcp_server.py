"""Serves a run over the Model Context Protocol, on standard input and output."""

from __future__ import annotations

import importlib.util
from typing import Any

from agent.door import DOOR_TOOLS, Door
from agent.workers import HANDLER
from runs.store import Store
from vortex.errors import ExitCode, VortexError

_INSTRUCTIONS = (
    "A search for page-sparse attention. You write programs in a small language, predict what they "
    "do, and hand them in; each is evaluated and counts against the run's budget. Begin with the "
    "tools guide and front. check_program and price_program are free."
)


def require_mcp() -> None:
    """See that the protocol's package is there.

    Raises:
        VortexError: E707, it is not.
    """
    if importlib.util.find_spec("mcp") is None:
        raise VortexError(
            "the package mcp is not installed", code="E707",
            hint="pip install 'vortex-search[mcp]'", exit_code=ExitCode.ENVIRONMENT,
        )  # fmt: skip


def serve(store: Store, source: str, *, handler: str = HANDLER, wait: float | None = None) -> None:
    """Serve until the client closes standard input; closes the store.

    While it serves, whatever else writes to standard output goes to standard error.

    Args:
        store: the run, open to write.
        source: who proposes.
        wait: seconds that a submission waits for its verdict.

    Raises:
        VortexError: E707, the package mcp is missing.
    """
    require_mcp()
    import anyio

    more = {} if wait is None else {"wait": wait}
    door = Door(store, source, handler=handler, **more)
    try:
        anyio.run(_served, door)
    finally:
        door.close()


async def _served(door: Door) -> None:
    import anyio
    import mcp_types as types
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server

    tools = [
        types.Tool(name=t.name, description=t.description, input_schema=dict(t.parameters))
        for t in DOOR_TOOLS
    ]

    async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(_: Any, asked: types.CallToolRequestParams) -> types.CallToolResult:
        # A client that leaves must not be waited for: what it handed in is in the record.
        reply = await anyio.to_thread.run_sync(
            door.call, asked.name, asked.arguments, abandon_on_cancel=True
        )
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=reply.text)],
            structured_content=None if reply.data is None else dict(reply.data),
            is_error=not reply.ok,
        )

    server: Server[Any] = Server(
        "vortex-search", instructions=_INSTRUCTIONS, on_list_tools=list_tools,
        on_call_tool=call_tool,
    )  # fmt: skip
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())
