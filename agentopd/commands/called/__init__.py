"""How commands are called that `agentopd.cli` only lists."""
