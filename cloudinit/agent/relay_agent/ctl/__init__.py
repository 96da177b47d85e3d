"""`relayctl`, the operator's command in the relay; it also works when the agent does not."""
