"""``python -m agent`` is ``vortex-search``."""

from agent.cli import main

main(prog_name="vortex-search")
