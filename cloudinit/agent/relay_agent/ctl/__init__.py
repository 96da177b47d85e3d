"""`relayctl`, the operator's command in the relay; it works without the agent too."""
