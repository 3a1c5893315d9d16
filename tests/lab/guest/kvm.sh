# To be sourced by a job: load and unload one of the kvm.ko.
release=$(uname -r)
mkdir -p /lib/modules/"$release"
mount --bind "$LAB/kernels/$release/lib/modules/$release" /lib/modules/"$release"

# load stock|control|guarded [parameters of kvm.ko]
load() {
    local kind=$1
    shift
    modprobe irqbypass
    modprobe ccp
    if [ "$kind" = stock ]; then
        modprobe kvm "$@"
        modprobe kvm-amd
    else
        insmod "$LAB/modules/$release/$kind/kvm.ko" "$@"
        insmod "$LAB/modules/$release/$kind/kvm-amd.ko"
    fi
}

unload() {
    rmmod kvm-amd
    rmmod kvm
}

# host NAME [arguments]: what pmuconf says, and its exit status, into /lab/out.
host() {
    local name=$1 status=0
    shift
    $PMUCONF host -f json "$@" >"/lab/out/$name.json" 2>"/lab/out/$name.err" || status=$?
    echo $status >"/lab/out/$name.status"
    echo "LAB $name: $status $(sed -n 's/^ *"\(verdict\|cause\|evidence\)": \(.*\),/\2/p' "/lab/out/$name.json" | tr '\n' ' ')"
    cat "/lab/out/$name.err"
}

# bench NAME EXIT [arguments]: what 'pmuconf bench' measures, and its exit status, into /lab/out. Few exits are enough
# under -icount.
bench() {
    local name=$1 kind=$2 status=0
    shift 2
    $PMUCONF bench "$kind" --anyway --exits 100 --pairs 22 --rounds 3 \
        --save "/lab/out/$name.run" -f json "$@" >"/lab/out/$name.json" 2>"/lab/out/$name.err" || status=$?
    echo $status >"/lab/out/$name.status"
    echo "LAB $name: $status"
    cat "/lab/out/$name.err"
}
