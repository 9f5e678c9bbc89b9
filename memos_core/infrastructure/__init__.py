"""Where memory lies and who may touch it: the vault and governance."""
