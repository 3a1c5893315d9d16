/*
 * A VMM as small as can be, for the lab. Its name in /proc/PID/comm says what its VM must be found to be: vmm-on,
 * vmm-off (PMU disabled in the kernel), or vmm-busy (on, with a counter programmed).
 *
 *   vmm on|off|busy      one VM with two vCPUs, made by a thread that is gone then; until killed
 *   vmm several          two VMs in one process, one on and one off (vmm-several); until killed
 *   vmm churn WORKERS    VMs that come and go all the time; until killed
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CAP_PMU 212 /* KVM_CAP_PMU_CAPABILITY */
#define EVNTSEL0 0xc0010000
#define CYCLES_ENABLED 0x430076

static void check(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static void make_vm(const char *kind)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry entry; } msrs = { { 1, 0 }, { EVNTSEL0, 0, CYCLES_ENABLED } };
	struct kvm_enable_cap cap = { .cap = CAP_PMU, .args = { 1 } };
	int kvm, vm, vcpu;

	check(kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	check(vm = ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	if (!strcmp(kind, "off"))
		check(ioctl(vm, KVM_ENABLE_CAP, &cap), "KVM_ENABLE_CAP");
	check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	check(vcpu = ioctl(vm, KVM_CREATE_VCPU, 1), "KVM_CREATE_VCPU");
	if (!strcmp(kind, "busy") && ioctl(vcpu, KVM_SET_MSRS, &msrs) != 1)
		check(-1, "KVM_SET_MSRS");
}

static void *in_thread(void *kind)
{
	make_vm(kind);
	return NULL;
}

static void be(const char *kind)
{
	char name[16];

	snprintf(name, sizeof(name), "vmm-%s", kind);
	prctl(PR_SET_NAME, name);
}

static void made_by_a_thread(const char *kind)
{
	pthread_t thread;

	be(kind);
	pthread_create(&thread, NULL, in_thread, (void *)kind);
	pthread_join(thread, NULL);
}

static void churn(void)
{
	for (;;) {
		if (!fork()) {
			srand(getpid());
			if (rand() % 2) {
				made_by_a_thread(rand() % 2 ? "on" : "off");
			} else {
				const char *kind = rand() % 2 ? "on" : "off";

				be(kind);
				make_vm(kind);
			}
			usleep(rand() % 4000000);
			exit(0);
		}
		wait(NULL);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "churn")) {
		for (int i = 1; i < atoi(argv[2]); i++)
			if (!fork())
				break;
		churn();
	}
	if (argc != 2)
		return 1;
	if (!strcmp(argv[1], "several")) {
		be("several");
		make_vm("on");
		make_vm("off");
	} else {
		made_by_a_thread(argv[1]);
	}
	puts("ready");
	fflush(stdout);
	pause();
	return 0;
}
