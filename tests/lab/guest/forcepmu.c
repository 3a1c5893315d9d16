// Lab only: TCG has no PMU, so KVM has cleared enable_pmu and what it knows of the host's counters. This sets both to
// what an AMD host has, so that VMs begin with a PMU in the kernel and KVM offers to disable it. With perfmon=1 KVM also
// offers what CPUs from Zen 4 on have, PERFCTR_CORE and PerfMonV2. Nothing counts.
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/perf_event.h>
#include <linux/version.h>
#include <asm/perf_event.h>
#include "reverse_cpuid.h"

extern bool enable_pmu;
extern struct x86_pmu_capability kvm_pmu_cap;
extern u32 kvm_cpu_caps[];

static bool perfmon;
module_param(perfmon, bool, 0444);

static int __init start(void)
{
	enable_pmu = true;
	kvm_pmu_cap.num_counters_gp = 6;
	kvm_pmu_cap.bit_width_gp = 48;
	if (perfmon) {
		kvm_cpu_caps[CPUID_8000_0001_ECX] |= BIT(X86_FEATURE_PERFCTR_CORE & 31);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
		kvm_cpu_caps[CPUID_8000_0022_EAX] |= BIT(0);
#endif
	}
	return 0;
}

static void __exit stop(void)
{
	enable_pmu = false;
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
