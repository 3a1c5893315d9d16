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
