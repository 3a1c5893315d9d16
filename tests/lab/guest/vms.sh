# To be sourced by a job, after kvm.sh: VMs of two QEMUs and of a small VMM, and what is said of them.
export PMUCONF LAB
python=${PMUCONF%% *}
guest=tests/lab/guest

# enter: make the other QEMUs' trees ready to be entered.
enter() {
    local tree
    for tree in "$LAB"/qemu-*/; do
        mount --rbind /dev "$tree/dev"
        mount -t proc proc "$tree/proc"
    done
}

# said NAME [arguments of live.py]: into /lab/out.
said() {
    local name=$1 status=0
    shift
    $python $guest/live.py "$@" >"/lab/out/$name.json" 2>"/lab/out/$name.err" || status=$?
    echo $status >"/lab/out/$name.status"
    echo "LAB $name: $status $(wc -c <"/lab/out/$name.json") bytes"
    cat "/lab/out/$name.err"
}

# processes NAME: the audit of all VMs by their processes, into /lab/out.
processes() {
    local name=$1 status=0
    $PMUCONF audit --processes -f json >"/lab/out/$name.json" 2>"/lab/out/$name.err" || status=$?
    echo $status >"/lab/out/$name.status"
    echo "LAB $name: $status $(wc -c <"/lab/out/$name.json") bytes"
    cat "/lab/out/$name.err"
}

# qemu TREE NAME [arguments]: a paused VM of that QEMU; of this machine's own with TREE -.
qemu() {
    local tree=$1 name=$2 command=(qemu-system-x86_64)
    shift 2
    [ "$tree" = - ] || command=(chroot "$LAB/$tree" qemu-system-x86_64)
    "${command[@]}" -name "guest=$name,debug-threads=on" -uuid "$(uuid "$name")" -accel kvm -S -machine q35 -m 16 \
        -nodefaults -no-user-config -display none -monitor none "$@" 2>"/tmp/qemu-$name.err" &
}

uuid() { md5sum <<<"$1" | sed 's/^\(.\{8\}\)\(.\{4\}\)\(.\{4\}\)\(.\{4\}\)\(.\{12\}\).*/\1-\2-\3-\4-\5/'; }

# vmm KIND: a VM of the small VMM.
vmm() { "$LAB/share/vmm" "$@" & }

# settle NUMBER: wait until so many processes have a vCPU.
settle() {
    local now
    for _ in $(seq 150); do
        now=$(find /proc/[0-9]*/fd -lname 'anon_inode:kvm-vcpu*' 2>/dev/null | cut -d/ -f3 | sort -u | wc -l)
        [ "$now" -ge "$1" ] && return
        sleep 2
    done
    echo "LAB only $now of $1 VMs have come up"
    tail -n 3 /tmp/qemu-*.err
}
