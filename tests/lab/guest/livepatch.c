// Lab only: a livepatch that brings the guard to a KVM that lacks it (the build "exported", whose symbols it needs).
#include <linux/kvm_host.h>
#include <linux/livepatch.h>
#include <linux/module.h>

void kvm_pmu_trigger_event(struct kvm_vcpu *vcpu, u64 perf_hw_id);

static int lab_kvm_skip_emulated_instruction(struct kvm_vcpu *vcpu)
{
	int r;

	static_call(kvm_x86_get_rflags)(vcpu);
	r = static_call(kvm_x86_skip_emulated_instruction)(vcpu);
	if (unlikely(!r))
		return 0;
	if (unlikely(vcpu->kvm->arch.enable_pmu))
		kvm_pmu_trigger_event(vcpu, PERF_COUNT_HW_INSTRUCTIONS);
	return r;
}

static struct klp_func functions[] = {
	{ .old_name = "kvm_skip_emulated_instruction", .new_func = lab_kvm_skip_emulated_instruction },
	{ }
};
static struct klp_object objects[] = { { .name = "kvm", .funcs = functions }, { } };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };

static int __init start(void)
{
	return klp_enable_patch(&patch);
}

static void __exit stop(void)
{
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
