"""Tests on a real OpenStack: make test-openstack (root, Debian 12, 4 GB of memory)."""
