"""What a VM exit costs on this host, measured with micro-VMs, and what two measurements say about each other."""
