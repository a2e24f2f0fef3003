"""Docker's subcommands on the engine's requests: grammar, columns and formats as Docker has them. Prints nothing."""
