"""What the commands of `agentopd` do; `agentopd.cli` says how they are called."""
