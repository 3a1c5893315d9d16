/*
 * The first process of a guest: what a tenant sees of the PMU there, a line each, on the console. Then the guest ends.
 *
 * It is given msr.ko as /msr.ko. What perf, the watchdog and the kernel's driver say is the guest kernel's own word.
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct { uint32_t number; const char *name; } msrs[] = {
	{ 0xc0010000, "PerfEvtSel0" }, { 0xc0010004, "PerfCtr0" },
	{ 0xc0010200, "PERF_CTL0" }, { 0xc0010201, "PERF_CTR0" }, { 0xc0010209, "PERF_CTR4" },
	{ 0xc0000300, "PerfCntrGlobalStatus" }, { 0xc0000301, "PerfCntrGlobalCtl" },
};

static void leaf(uint32_t number)
{
	uint32_t a = 0, b = 0, c = 0, d = 0;

	__get_cpuid_count(number, 0, &a, &b, &c, &d);
	printf("TENANT cpuid-%08x %08x %08x %08x %08x\n", number, a, b, c, d);
}

static void event(const char *name, uint32_t type, uint64_t config)
{
	struct perf_event_attr attr = { .type = type, .size = sizeof(attr), .config = config };
	uint64_t count = 0;
	int fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);

	if (fd < 0) {
		printf("TENANT perf-%s %s\n", name, strerrorname_np(errno));
		return;
	}
	for (volatile int i = 0; i < 100000; i++)
		;
	if (read(fd, &count, sizeof(count)) != sizeof(count))
		printf("TENANT perf-%s %s\n", name, strerrorname_np(errno));
	else
		printf("TENANT perf-%s opened, %s\n", name, count ? "counts" : "zero");
	close(fd);
}

static void file(const char *name, const char *path)
{
	char text[256] = "";
	int fd = open(path, O_RDONLY);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		strcpy(text, strerrorname_np(errno));
	text[strcspn(text, "\n")] = 0;
	printf("TENANT %s %s\n", name, text);
}

/* Read, write what the register would hold if it counted cycles, and read again. */
static void registers(void)
{
	int fd = open("/dev/cpu/0/msr", O_RDWR);

	if (fd < 0)
		printf("TENANT msr %s\n", strerrorname_np(errno));
	for (unsigned i = 0; fd >= 0 && i < sizeof(msrs) / sizeof(*msrs); i++) {
		uint64_t value = 0, wanted = strstr(msrs[i].name, "Sel") || strstr(msrs[i].name, "CTL") ? 0x30076 : 0xabc;
		const char *read = "ok", *write = "ok";

		if (strstr(msrs[i].name, "Global"))
			wanted = 0;
		if (pread(fd, &value, sizeof(value), msrs[i].number) < 0)
			read = strerrorname_np(errno);
		if (pwrite(fd, &wanted, sizeof(wanted), msrs[i].number) < 0)
			write = strerrorname_np(errno);
		value = 0;
		if (pread(fd, &value, sizeof(value), msrs[i].number) < 0)
			value = 0;
		printf("TENANT msr-%s read %s, write %s, then %s\n", msrs[i].name, read, write,
		       !wanted ? "-" : value == wanted ? "kept" : value ? "other" : "zero");
	}
}

static void messages(void)
{
	static const char *const words[] = { "Performance Events", "PMU", "perfctr", "NMI watchdog", "watchdog:", "software events" };
	static char log[1 << 20];
	int size = klogctl(3, log, sizeof(log) - 1);

	for (char *line = strtok(size > 0 ? log : NULL, "\n"); line; line = strtok(NULL, "\n"))
		for (unsigned i = 0; i < sizeof(words) / sizeof(*words); i++)
			if (strstr(line, words[i])) {
				char *text = strchr(line, ']');

				printf("TENANT log%s\n", text ? text + 1 : line);
				break;
			}
}

int main(void)
{
	int module, cpuinfo;
	static char text[1 << 16];

	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	module = open("/msr.ko", O_RDONLY);
	if (syscall(SYS_finit_module, module, "allow_writes=on", 0))
		printf("TENANT msr.ko %s\n", strerrorname_np(errno));
	leaf(1);
	leaf(0xa);
	leaf(0x80000001);
	leaf(0x80000022);
	cpuinfo = open("/proc/cpuinfo", O_RDONLY);
	for (ssize_t got; (got = read(cpuinfo, text + strlen(text), sizeof(text) - strlen(text) - 1)) > 0;)
		;
	for (char *word = strtok(text, " \t\n"); word; word = strtok(NULL, " \t\n"))
		if (strstr(word, "perfctr") || strstr(word, "perfmon"))
			printf("TENANT flag %s\n", word);
	event("cycles", PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES);
	event("instructions", PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS);
	event("task-clock", PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK);
	file("nmi-watchdog", "/proc/sys/kernel/nmi_watchdog");
	file("soft-watchdog", "/proc/sys/kernel/soft_watchdog");
	file("pmu-name", "/sys/bus/event_source/devices/cpu/caps/pmu_name");
	registers();
	messages();
	puts("TENANT end");
	fflush(stdout);
	sync();
	reboot(RB_AUTOBOOT);
	return 0;
}
