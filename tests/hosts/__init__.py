"""Several booted hosts on a network of their own: make test-hosts."""
