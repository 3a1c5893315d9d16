# To be sourced by a job, after vms.sh: a libvirtd in the lab's host, and domains of several QEMUs.

# libvirt_up TREE...: start it as on a machine that has booted, with the QEMUs of these trees beside the machine's own.
libvirt_up() {
    mkdir -p /sys/fs/cgroup /run/dbus /run/libvirt /dev/pts
    mountpoint -q /dev/pts || mount -t devpts pts /dev/pts
    mount -t cgroup2 cgroup /sys/fs/cgroup
    ip link set lo up
    dbus-daemon --system --fork
    cat >/etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
CONF
    # A QEMU of another Debian, in a tree of its own that has libvirt's directories too.
    local tree folder own
    for tree; do
        for folder in /run /var/lib/libvirt /var/log/libvirt /tmp; do
            mkdir -p "$tree$folder" $folder
            mount --rbind $folder "$tree$folder"
        done
        # Under a name that QEMU is installed under: of what has another one, no definition tells which PMU the guest gets.
        own=/usr/local/lib/$(basename "$tree")
        mkdir -p "$own"
        printf '#!/bin/sh\nexec chroot %s /usr/bin/qemu-system-x86_64 "$@"\n' "$tree" >"$own/qemu-system-x86_64"
        chmod +x "$own/qemu-system-x86_64"
    done
    libvirtd -d
    for _ in $(seq 60); do
        virsh -c qemu:///system version >/dev/null 2>&1 && return
        sleep 1
    done
    echo LAB libvirtd does not answer
}

# domain NAME EMULATOR CPU-MODE PMU: define and start one, paused; PMU is off, on or none.
domain() {
    local name=$1 emulator=$2 cpu=$3 pmu=$4
    [ "$pmu" = none ] && pmu= || pmu="<pmu state='$pmu'/>"
    cat >"/tmp/$name.xml" <<XML
<domain type='kvm'>
  <name>$name</name><uuid>$(uuid "$name")</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/><apic/>$pmu</features>
  <cpu mode='$cpu' check='none'/>
  <devices><emulator>$emulator</emulator><controller type='usb' model='none'/><memballoon model='none'/></devices>
</domain>
XML
    virsh -q define "/tmp/$name.xml" && timeout 200 virsh -q start --paused "$name" ||
        { echo "LAB $name does not start"; tail -n 3 "/var/log/libvirt/qemu/$name.log"; }
}

# domains: six of each QEMU.
domains() {
    local emulator cpu pmu short
    for short in qemu-7.2 qemu-10.0 qemu-11 qemu-sid; do
        emulator=/usr/local/lib/$short/qemu-system-x86_64
        [ -e $emulator ] || emulator=/usr/bin/qemu-system-x86_64
        for cpu in host-passthrough host-model; do
            for pmu in off none on; do domain "$short-$cpu-$pmu" $emulator $cpu $pmu; done
        done
    done
    virsh list --all
}

# audited NAME [arguments]: what pmuconf audit says, into /lab/out.
audited() {
    local name=$1 status=0
    shift
    $PMUCONF audit -f json "$@" >"/lab/out/$name.json" 2>"/lab/out/$name.err" || status=$?
    echo $status >"/lab/out/$name.status"
    echo "LAB $name: $status $(wc -c <"/lab/out/$name.json") bytes"
    cat "/lab/out/$name.err"
}
