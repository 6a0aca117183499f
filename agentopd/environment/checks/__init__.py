"""The checks of `agentopd.environment.check.check_env`: form, repeatability and play."""
