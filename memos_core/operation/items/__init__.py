"""Values under keys: what the stores of agents and indexes stand on."""
