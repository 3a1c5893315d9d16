"""The cost of a VM exit on this host, measured with micro-VMs, and the difference between two measurements."""
