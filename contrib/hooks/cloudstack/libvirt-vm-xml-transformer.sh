#!/bin/sh
# CloudStack's agent runs this as: libvirt-vm-xml-transformer.sh transform XML, if it stands in /etc/cloudstack/agent/hooks.
# After another status than 0, it uses its own domain. It has no hook that could keep a VM from starting.
exec timeout "${PMUCONF_SECONDS:-20}" pmuconf --log-file "${PMUCONF_LOG:-/var/log/cloudstack/agent/pmuconf.log}" \
    hook cloudstack --domain "$2"
