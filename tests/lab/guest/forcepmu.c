// Lab only: an emulated CPU has no PMU, so KVM clears enable_pmu; this sets it, so that VMs can be made with the PMU
// enabled in the kernel, and KVM_CAP_PMU_CAPABILITY is taken.
#include <linux/kvm_host.h>
#include <linux/module.h>

extern bool enable_pmu;

static int __init start(void)
{
	enable_pmu = true;
	return 0;
}

static void __exit stop(void)
{
	enable_pmu = false;
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
