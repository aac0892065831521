"""The management command `mpx`: one module for each subcommand, and what they share."""
