// Lab only: TCG has no PMU, so KVM has cleared enable_pmu and what it knows of the host's counters. This sets both to
// what an AMD host has, so that VMs begin with a PMU in the kernel and KVM offers to disable it. Nothing counts.
#include <linux/module.h>
#include <linux/perf_event.h>
#include <asm/perf_event.h>

extern bool enable_pmu;
extern struct x86_pmu_capability kvm_pmu_cap;

static int __init start(void)
{
	enable_pmu = true;
	kvm_pmu_cap.num_counters_gp = 6;
	kvm_pmu_cap.bit_width_gp = 48;
	return 0;
}

static void __exit stop(void)
{
	enable_pmu = false;
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
