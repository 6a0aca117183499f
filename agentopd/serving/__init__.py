"""Model servers, as agentopd asks them."""
