"""The `agentguard` command: one module a subcommand, listed in main.COMMANDS."""
