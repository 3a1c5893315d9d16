// Lab only: TCG has no PMU, so KVM has cleared enable_pmu. This sets it again, so that VMs begin with a PMU in the
// kernel and KVM offers to disable it.
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
