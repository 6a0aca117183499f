"""Students for environments of one's own: `agentopd zoo build FILE.yaml`."""
