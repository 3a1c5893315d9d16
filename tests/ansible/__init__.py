"""The Ansible collection, by real ansible-playbook on hosts that have an embedded libvirt driver each."""
