"""`python -m agentopd` is the command `agentopd`."""

from agentopd.cli import app

if __name__ == "__main__":
    app()
