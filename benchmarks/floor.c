/*
 * floor: the shortest route that we know to one default container, as a yardstick.
 *
 * What it does, once a run:
 *   1. make cgroups with memory, CPU and PIDs limits (v1: three, v2: one);
 *   2. clone3 a child into new PID, mount, network, UTS, IPC and time namespaces
 *      (v2: also into its cgroup);
 *   3. the child joins its cgroups (v1), unshares the cgroup namespace, builds an overlay
 *      root with a tmpfs upper, /proc, /sys and /dev, brings the loopback up, pivots,
 *      drops capabilities to Docker's 14, installs a seccomp filter and executes PROGRAM;
 *   4. the parent reaps it and removes the cgroups.
 *
 * Should: stay a floor. Everything is fixed, nothing is pooled or made ahead of time.
 * Mustn't: be used to contain anything. It masks no paths, its filter is a deny-list.
 *
 * Usage: floor (--cgroup1 MEMORY CPU PIDS | --cgroup2 DIR) [--lower DIR]
 *              [--loop N] [--gap-ms G | --wait] PROGRAM
 *   MEMORY, CPU, PIDS, DIR  existing cgroup directories, in which children are made
 *   --lower DIR             the root's lower directory (default: /)
 *   --loop N                number of runs (default: 1)
 *   --gap-ms G              sleep G milliseconds before each run
 *   --wait                  start each run when a byte arrives on standard input instead
 * Prints one line a run: microseconds to reaped, and to cgroups removed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define EXIT_FLOOR_FAILED 125

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#else
#error "the seccomp filter knows x86-64 and aarch64"
#endif

struct limit {
	const char *v1_file, *v1_value;
	const char *v2_file, *v2_value;
};

/* In the order of --cgroup1's directories: 128 MiB, half a CPU, 100 tasks. */
static const struct limit limits[] = {
	{ "memory.limit_in_bytes", "134217728", "memory.max", "134217728" },
	{ "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000" },
	{ "pids.max", "100", "pids.max", "100" },
};

struct options {
	int version; /* of cgroups: 1 or 2 */
	int parents[COUNT(limits)]; /* directory descriptors; v2 uses the first */
	const char *lower;
	const char *program;
	long runs;
	long gap_ms;
	int wait_for_byte;
};

static char cgroup_name[64];
static int cgroups[COUNT(limits)] = { -1, -1, -1 };

static size_t hierarchies(const struct options *o)
{
	return o->version == 1 ? COUNT(limits) : 1;
}

static int remove_cgroups(const struct options *o)
{
	int status = 0;

	for (size_t i = 0; i < hierarchies(o); i++) {
		if (cgroups[i] < 0)
			continue;
		(void) close(cgroups[i]);
		cgroups[i] = -1;
		if (unlinkat(o->parents[i], cgroup_name, AT_REMOVEDIR) < 0)
			status = -1;
	}
	return status;
}

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	_exit(EXIT_FLOOR_FAILED);
}

static _Noreturn void fail_in_parent(const struct options *o, const char *what)
{
	int error = errno;

	(void) remove_cgroups(o);
	errno = error;
	fail(what);
}

static int write_at(int dir, const char *file, const char *value)
{
	int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);
	size_t length = strlen(value);

	if (fd < 0)
		return -1;
	ssize_t written = write(fd, value, length);
	int error = errno;
	(void) close(fd);
	errno = error;
	return written == (ssize_t) length ? 0 : -1;
}

static void make_cgroups(const struct options *o)
{
	for (size_t i = 0; i < hierarchies(o); i++) {
		if (mkdirat(o->parents[i], cgroup_name, 0755) < 0)
			fail_in_parent(o, "mkdir cgroup");
		cgroups[i] = openat(o->parents[i], cgroup_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (cgroups[i] < 0) {
			int error = errno;

			(void) unlinkat(o->parents[i], cgroup_name, AT_REMOVEDIR);
			errno = error;
			fail_in_parent(o, "open cgroup");
		}
	}
	for (size_t i = 0; i < COUNT(limits); i++) {
		const struct limit *l = &limits[i];
		int status = o->version == 1 ? write_at(cgroups[i], l->v1_file, l->v1_value)
					     : write_at(cgroups[0], l->v2_file, l->v2_value);
		if (status < 0)
			fail_in_parent(o, o->version == 1 ? l->v1_file : l->v2_file);
	}
}

static void make_devices(void)
{
	static const struct {
		const char *path;
		unsigned int major, minor;
	} nodes[] = {
		{ "dev/null", 1, 3 },	{ "dev/zero", 1, 5 },	 { "dev/full", 1, 7 },
		{ "dev/random", 1, 8 }, { "dev/urandom", 1, 9 }, { "dev/tty", 5, 0 },
	};

	mode_t inherited = umask(0);

	if (mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k") < 0)
		fail("mount tmpfs on /dev");
	for (size_t i = 0; i < COUNT(nodes); i++)
		if (mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)) < 0)
			fail(nodes[i].path);
	(void) umask(inherited);
}

static void build_root(const struct options *o)
{
	char data[512];
	int n = snprintf(data, sizeof(data), "lowerdir=%s,upperdir=/tmp/upper,workdir=/tmp/work", o->lower);

	if (n < 0 || (size_t) n >= sizeof(data)) {
		errno = ENAMETOOLONG;
		fail(o->lower);
	}
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail("make / private");
	/* Over the host's /tmp, in this mount namespace only: a directory that is always there. */
	if (mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755") < 0)
		fail("mount tmpfs for the upper directory");
	if (mkdir("/tmp/upper", 0755) < 0 || mkdir("/tmp/work", 0755) < 0 || mkdir("/tmp/root", 0755) < 0)
		fail("mkdir upper, work, root");
	if (mount("overlay", "/tmp/root", "overlay", 0, data) < 0)
		fail("mount overlay");
	if (chdir("/tmp/root") < 0)
		fail("chdir to the new root");
	if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		fail("mount proc");
	if (mount("sysfs", "sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		fail("mount sysfs");
	make_devices();
	/* pivot_root(2), NOTES: "." twice stacks the old root on the new one; no put_old needed. */
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		fail("pivot_root");
	if (umount2(".", MNT_DETACH) < 0)
		fail("unmount the old root");
	if (chdir("/") < 0)
		fail("chdir to /");
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		fail("bring the loopback up");
	(void) close(fd);
}

static void drop_capabilities(void)
{
	static const int kept[] = {
		CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FSETID, CAP_FOWNER,  CAP_MKNOD,	     CAP_NET_RAW,    CAP_SETGID,
		CAP_SETUID, CAP_SETFCAP,      CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_KILL, CAP_AUDIT_WRITE,
	};
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	uint64_t mask = 0;

	for (size_t i = 0; i < COUNT(kept); i++)
		mask |= UINT64_C(1) << kept[i];
	for (int cap = 0; cap < 64; cap++) {
		if (mask >> cap & 1)
			continue;
		/* EINVAL: this kernel's last capability is behind us. */
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
			if (errno == EINVAL)
				break;
			fail("PR_CAPBSET_DROP");
		}
	}
	uint32_t low = (uint32_t) mask, high = (uint32_t) (mask >> 32);
	struct __user_cap_data_struct data[2] = {
		{ .effective = low, .permitted = low },
		{ .effective = high, .permitted = high },
	};
	if (syscall(SYS_capset, &header, data) < 0)
		fail("capset");
}

#define DENY(nr) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

static void install_filter(void)
{
	static struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NATIVE_ARCH, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		/* x32 system calls: __X32_SYSCALL_BIT. */
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		DENY(SYS_mount), DENY(SYS_umount2), DENY(SYS_pivot_root), DENY(SYS_unshare), DENY(SYS_setns),
		DENY(SYS_bpf), DENY(SYS_perf_event_open), DENY(SYS_keyctl), DENY(SYS_add_key),
		DENY(SYS_request_key), DENY(SYS_userfaultfd), DENY(SYS_init_module), DENY(SYS_finit_module),
		DENY(SYS_delete_module), DENY(SYS_kexec_load), DENY(SYS_reboot), DENY(SYS_swapon),
		DENY(SYS_swapoff), DENY(SYS_open_by_handle_at),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = COUNT(code), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail("PR_SET_NO_NEW_PRIVS");
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
		fail("seccomp");
}

static _Noreturn void run_child(const struct options *o)
{
	char *const argv[] = { (char *) o->program, NULL };
	char *const environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };

	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		fail("PR_SET_PDEATHSIG");
	if (o->version == 1)
		for (size_t i = 0; i < COUNT(limits); i++)
			/* tasks, not cgroup.procs: no wait for an RCU grace period on the thread group's lock. */
			if (write_at(cgroups[i], "tasks", "0") < 0)
				fail("join cgroup");
	/* Not at clone: the cgroup joined above is to be the root that the container sees. */
	if (unshare(CLONE_NEWCGROUP) < 0)
		fail("unshare the cgroup namespace");
	if (sethostname("floor", 5) < 0)
		fail("sethostname");
	build_root(o);
	loopback_up();
	drop_capabilities();
	install_filter();
	(void) execve(o->program, argv, environment);
	fail(o->program);
}

static double microseconds_since(const struct timespec *start)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return (double) (now.tv_sec - start->tv_sec) * 1e6 + (double) (now.tv_nsec - start->tv_nsec) / 1e3;
}

static int run_once(const struct options *o, long index)
{
	struct clone_args args = {
		.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWTIME,
		.exit_signal = SIGCHLD,
	};
	struct timespec start;
	int status;

	(void) clock_gettime(CLOCK_MONOTONIC, &start);
	(void) snprintf(cgroup_name, sizeof(cgroup_name), "floor-%ld-%ld", (long) getpid(), index);
	make_cgroups(o);
	if (o->version == 2) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t) cgroups[0];
	}
	pid_t pid = (pid_t) syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0)
		run_child(o);
	if (pid < 0)
		fail_in_parent(o, "clone3");
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			fail_in_parent(o, "waitpid");
	double reaped_us = microseconds_since(&start);
	if (remove_cgroups(o) < 0)
		fail("rmdir cgroup");
	double removed_us = microseconds_since(&start);
	if (status == 0)
		printf("%.1f %.1f\n", reaped_us, removed_us);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static _Noreturn void usage(void)
{
	fputs("usage: floor (--cgroup1 MEMORY CPU PIDS | --cgroup2 DIR) [--lower DIR] [--loop N]"
	      " [--gap-ms G | --wait] PROGRAM\n",
	      stderr);
	exit(2);
}

static long number(const char *text)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || *end || end == text || value < 0)
		usage();
	return value;
}

static void open_parents(struct options *o, char **directories)
{
	for (size_t i = 0; i < hierarchies(o); i++) {
		o->parents[i] = open(directories[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (o->parents[i] < 0)
			fail(directories[i]);
	}
}

static struct options parse(int argc, char **argv)
{
	struct options o = { .lower = "/", .runs = 1 };
	int i = 1;

	for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
		int left = argc - i - 1;

		if (!strcmp(argv[i], "--cgroup1") && left >= 3) {
			o.version = 1;
			open_parents(&o, argv + i + 1);
			i += 3;
		} else if (!strcmp(argv[i], "--cgroup2") && left >= 1) {
			o.version = 2;
			open_parents(&o, argv + ++i);
		} else if (!strcmp(argv[i], "--lower") && left >= 1) {
			o.lower = argv[++i];
		} else if (!strcmp(argv[i], "--loop") && left >= 1) {
			o.runs = number(argv[++i]);
		} else if (!strcmp(argv[i], "--gap-ms") && left >= 1) {
			o.gap_ms = number(argv[++i]);
		} else if (!strcmp(argv[i], "--wait")) {
			o.wait_for_byte = 1;
		} else {
			usage();
		}
	}
	if (i != argc - 1 || !o.version)
		usage();
	o.program = argv[i];
	return o;
}

int main(int argc, char **argv)
{
	struct options o = parse(argc, argv);
	struct timespec gap = { .tv_sec = o.gap_ms / 1000, .tv_nsec = o.gap_ms % 1000 * 1000000 };

	(void) setvbuf(stdout, NULL, _IOLBF, 0);
	for (long i = 0; i < o.runs; i++) {
		char byte;

		if (o.wait_for_byte && read(STDIN_FILENO, &byte, 1) != 1)
			break;
		if (o.gap_ms)
			(void) nanosleep(&gap, NULL);
		int code = run_once(&o, i);
		if (code)
			return code;
	}
	return 0;
}
