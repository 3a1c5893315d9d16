# To be sourced by a job, after kvm.sh: records of the running host, as 'pmuconf host record' writes them.

# recorded NAME: record the host into /lab/out/record-NAME, and keep what pmuconf says of it there and then.
recorded() {
    host "$1"
    $PMUCONF host record "/lab/out/record-$1"
}

# with_pmu NAME: the same, of a KVM that offers a PMU. A module of the lab's makes it do so, and is in the record too.
with_pmu() {
    insmod "$LAB/modules/$release/forcepmu.ko"
    recorded "$1"
    rmmod forcepmu
}

# four_domains: one for each answer that a guarded kernel can give.
four_domains() {
    local new=/usr/local/lib/qemu-11/qemu-system-x86_64 old=/usr/bin/qemu-system-x86_64
    domain web1 $new host-passthrough off
    domain web2 $old host-passthrough off
    domain db1 $new host-passthrough none
    domain prof1 $new host-passthrough on
}
