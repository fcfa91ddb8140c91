"""placeholder."""
COMMANDS = ()
