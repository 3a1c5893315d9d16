"""The hooks of other managers of libvirt: what each passes to its hook, and what it gets back."""
