"""The service: keeps a host's domains on policy and its report fresh. Only the loop is new, all else is the CLI's."""
