"""What this host's kernel really does. Every probe reads below one root directory, so that a record replays."""
