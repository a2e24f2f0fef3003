/* The syscall core: carries out a flat plan of steps, and decides nothing.
 *
 * Theory of operation. The engine (single-threaded) compiles a plan to an image and calls
 * jns_spawn(). The image is copied and its string lists are turned into pointer arrays
 * before clone3(2). The child then walks the steps. It may be a copy of a process in any
 * state, so:
 *
 *   Should:  make raw system calls on memory that was ready before clone3.
 *   Mustn't: call malloc, stdio, libc's fork, strerror, or anything of Python's.
 *
 * A step that fails ends the child: (phase, step, errno) goes up the report pipe in one
 * write, and the parent, which still has the plan, says it in words. End of file on that
 * pipe after JNS_RUNNING means that execve(2) succeeded, for the pipe is close-on-exec.
 *
 * One step is one system call. The exceptions, each because the call is useless alone:
 * JNS_WRITE and JNS_SETNS_PATH (open), JNS_LINK_UP (a socket), JNS_BOUNDING (a call for
 * each capability), JNS_SIGNALS (for each signal), JNS_FDS, JNS_EXEC (a call for each
 * directory of PATH), JNS_INIT, JNS_CTTY (streams), JNS_IDMAP (only a mount that is nowhere yet can be mapped),
 * JNS_OPEN_TREE and JNS_MOVE_MOUNT (descriptors) and JNS_FSIDS (the kernel takes capabilities away
 * with the user ID).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core.h"

_Static_assert(sizeof(jns_step) == 64, "the Python side packs 64 bytes a step");
_Static_assert(sizeof(jns_report) == 16, "a report is one atomic pipe write");

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#define MOVE_MOUNT_F_EMPTY_PATH 4
#endif
#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif

/* glibc 2.36 has a struct of this name, older ones do not; ours is the ABI. */
struct jns_mount_attr {
    uint64_t attr_set, attr_clr, propagation, userns_fd;
};
struct jns_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* The kernel's struct sigaction, for rt_sigaction(2) without libc. */
struct jns_sigaction {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

typedef struct {
    unsigned char *image;
    const jns_step *steps;
    uint32_t count;
    uint32_t first; /* which step of the engine's plan the first is */
    int report_fd, go_fd;
    struct { /* sent at once: the engine should not wake up twice */
        jns_report report;
        int64_t times[JNS_MAX_STEPS];
    } running;
} jns_run;

jns_range jns_arguments;

/* Where each process keeps its run: static, so that the child needs no allocation. */
static jns_run the_run;

/* ---- before clone3: in the parent, where everything is allowed ---- */

/* A string list is: uint64 count, then count + 1 uint64 slots. Slots hold offsets; turn them
 * into pointers, in place. Returns 0, or -1 where the image does not hold together. */
static int relocate_list(unsigned char *image, uint64_t size, uint32_t data, uint32_t offset)
{
    if (offset < data || offset % 8 || (uint64_t)offset + 16 > size) /* among the steps, it would change them */
        return -1;
    uint64_t *list = (uint64_t *)(void *)(image + offset);
    uint64_t n = list[0];
    if (n > (size - offset) / 8 - 2)
        return -1;
    for (uint64_t i = 0; i < n; i++) {
        if (list[i + 1] >= size)
            return -1;
        list[i + 1] += (uint64_t)(uintptr_t)image;
    }
    list[n + 1] = 0;
    return 0;
}

/* Bytes of each element of the array at s0, of which there are n0; 0 where s0 is none. */
static uint64_t element_size(int op)
{
    switch (op) {
    case JNS_HOSTNAME:
    case JNS_DOMAINNAME:
        return 1;
    case JNS_SETGROUPS:
        return 4;
    case JNS_SECCOMP:
    case JNS_FDS:
        return 8;
    default:
        return 0;
    }
}

static int step_is_sound(const jns_step *step, uint64_t size)
{
    uint64_t each = element_size(step->op), n = (uint64_t)step->n[0]; /* negative: huge */
    for (int k = 0; k < 4; k++)
        if (step->s[k] >= size)
            return 0;
    if (each && n && (!step->s[0] || n > (size - step->s[0]) / each || (each > 1 && step->s[0] % 4)))
        return 0;
    if (step->op == JNS_WRITE && n > size - step->s[1])
        return 0;
    return step->op != JNS_LINK_UP || step->s[0];
}

/* Memory of its own, outside of the heap that a child does without. */
#ifndef __SANITIZE_ADDRESS__
static unsigned char *image_new(uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void image_free(unsigned char *image, uint64_t size)
{
    (void)munmap(image, size);
}
#else /* it watches malloc's memory, and the child's code needs the sanitizer's own */
#undef MADV_DONTFORK
#define MADV_DONTFORK MADV_NORMAL
#define image_new(size) malloc(size)
#define image_free(image, size) free(image)
#endif

/* Take up an image of our own: check every offset, so that nobody need later. It ends in NUL, so every string
 * in it is terminated. */
static int take_up(unsigned char *image, uint64_t size, uint32_t count)
{
    if (count == 0 || count > JNS_MAX_STEPS - the_run.first || size < count * sizeof(jns_step) + 1 || image[size - 1] != 0)
        return -EINVAL;
    const jns_step *steps = (const jns_step *)(void *)image;
    for (uint32_t i = 0; i < count; i++) {
        if (!step_is_sound(&steps[i], size))
            return -EINVAL;
        if (steps[i].op == JNS_EXEC)
            for (int k = 0; k < 3; k++)
                if (relocate_list(image, size, count * (uint32_t)sizeof(jns_step), steps[i].s[k]))
                    return -EINVAL;
    }
    the_run.image = image;
    the_run.steps = steps;
    the_run.count = count;
    return 0;
}

static int prepare(const void *image, uint64_t size, uint32_t count, int report_fd, int go_fd)
{
    unsigned char *copy = image_new(size);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, image, size);
    int r = take_up(copy, size, count);
    if (r < 0)
        image_free(copy, size);
    the_run.report_fd = report_fd;
    the_run.go_fd = go_fd;
    return r;
}

/* ---- after clone3: raw system calls only ---- */

static int64_t now_ns(void)
{
    struct timespec t;
    /* CLOCK_REALTIME: a step may enter a time namespace, which shifts the monotonic clocks. */
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void report(int phase, int step, int err)
{
    jns_report r = {phase, step, err, 0};
    (void)!write(the_run.report_fd, &r, sizeof r); /* the parent may be gone: nothing to do then */
}

static int write_file(const char *path, const void *data, int64_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return -1;
    int64_t written = write(fd, data, (size_t)length);
    int err = written == length ? 0 : written < 0 ? errno : EIO;
    if (close(fd) < 0 && !err)
        err = errno;
    errno = err;
    return err ? -1 : 0;
}

/* Close what was open for one call, and return what that did. */
static int closing(int fd, int r)
{
    int err = errno;
    (void)close(fd);
    errno = err;
    return r;
}

static int link_up(const char *name)
{
    struct ifreq request = {0};
    for (int i = 0; i < IFNAMSIZ - 1 && name[i]; i++)
        request.ifr_name[i] = name[i];
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    return closing(fd, ioctl(fd, SIOCSIFFLAGS, &request));
}

static int setns_path(const char *path, int64_t type)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -1 : closing(fd, setns(fd, (int)type));
}

/* Standard streams on a terminal; for a session's leader that has none, it is the controlling one: tty_ioctl(4). */
static int take_terminal(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    return fd < 0 ? -1 : closing(fd, dup3(fd, 0, 0) < 0 || dup3(fd, 1, 0) < 0 || dup3(fd, 2, 0) < 0 ? -1 : 0);
}

/* Hear at least `least` bytes, at most `most`; returns how many. */
static uint64_t hear(void *data, uint64_t least, uint64_t most)
{
    uint64_t at = 0;
    while (at < least) {
        int64_t n = read(the_run.go_fd, (char *)data + at, most - at);
        if (n == 0 || (n < 0 && errno != EINTR))
            _exit(125); /* the engine let go of us */
        at += n > 0 ? (uint64_t)n : 0;
    }
    return at;
}

/* Wait for a plan, and go on with it in place of this one. Room is made before: then, somebody waits. */
static int wait_plan(int step)
{
    static struct {
        uint64_t size, count, first;
        unsigned char image[16360];
    } plan;
    unsigned char *image = memset(plan.image, 0, sizeof plan.image);
    report(JNS_WAITING, step, 0);
    uint64_t head = sizeof plan - sizeof plan.image, heard = hear(&plan, head, sizeof plan) - head;
    if (plan.size > sizeof plan.image && (image = image_new(plan.size)))
        memcpy(image, plan.image, heard);
    if (!image)
        return -1;
    if (heard < plan.size)
        (void)hear(image + heard, plan.size - heard, plan.size - heard);
    the_run.first = (uint32_t)plan.first;
    errno = plan.first > JNS_MAX_STEPS ? EINVAL : -take_up(image, plan.size, (uint32_t)plan.count);
    return errno ? -1 : 0;
}

static int drop_bounding(uint64_t keep, int64_t last)
{
    for (int64_t cap = 0; cap <= last; cap++)
        if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
            return -1;
    return 0;
}

static int set_capabilities(uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {
        {(uint32_t)permitted, (uint32_t)permitted, (uint32_t)inheritable},
        {(uint32_t)(permitted >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)}};
    return (int)syscall(SYS_capset, &header, data);
}

/* A clone of a mount that is nowhere yet, under a number that the plan knows. */
static int open_tree_at(const char *path, int number, unsigned flags)
{
    int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | O_CLOEXEC | flags);
    return fd < 0 || fd == number ? fd : closing(fd, dup3(fd, number, O_CLOEXEC));
}

static int attach_tree(int fd, const char *target)
{
    if (syscall(SYS_move_mount, fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return -1;
    return close(fd);
}

/* mount_setattr(2): only the clone of a mount can be given a map, and only before it is attached. */
static int idmap(const char *source, const char *target, int64_t userns_fd)
{
    struct jns_mount_attr attr = {MOUNT_ATTR_IDMAP, 0, 0, (uint64_t)userns_fd};
    int fd = (int)syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | O_CLOEXEC);
    if (fd < 0 || syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof attr) < 0)
        return -1; /* and the child ends, with what it holds */
    return attach_tree(fd, target);
}

/* Files that are made from here on belong to these IDs. Capabilities over files stay: capabilities(7). */
static int set_fs_ids(int64_t uid, int64_t gid)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0)
        return -1;
    (void)syscall(SYS_setfsgid, gid);
    (void)syscall(SYS_setfsuid, uid);
    if (syscall(SYS_setfsgid, -1) != gid || syscall(SYS_setfsuid, -1) != uid) { /* they report no errors */
        errno = EPERM;
        return -1;
    }
    return (int)syscall(SYS_capset, &header, data);
}

static int default_signals(void)
{
    struct jns_sigaction action = {0};
    uint64_t none = 0;
    for (int sig = 1; sig < 65; sig++) /* KILL and STOP, and libc's own 32 and 33 (raw call: allowed) */
        if (syscall(SYS_rt_sigaction, sig, &action, NULL, 8) < 0 && sig != SIGKILL && sig != SIGSTOP)
            return -1;
    return (int)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
}

static void set_cloexec_from(unsigned first, int close_them)
{
    if (syscall(SYS_close_range, first, ~0U, close_them ? 0 : 4U /* CLOSE_RANGE_CLOEXEC */) == 0)
        return;
    /* close_range(2) is new in Linux 5.9, its CLOEXEC in 5.11. */
    struct rlimit limit = {0, 0};
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    for (unsigned fd = first; fd < limit.rlim_cur && fd < 65536; fd++)
        (void)(close_them ? close((int)fd) : fcntl((int)fd, F_SETFD, FD_CLOEXEC));
}

/* Give each fd its number, and close all others. Pairs are (fd, number), numbers ascending from 0.
 * The report and go pipes are among the pairs, so their new numbers are noted. */
static int arrange_fds(const int32_t *pairs, int64_t n)
{
    int high[16], report_fd = -1, go_fd = -1;
    if (n > 16) {
        errno = EINVAL;
        return -1;
    }
    for (int64_t i = 0; i < n; i++) { /* out of the way first: a number may be another pair's fd */
        high[i] = fcntl(pairs[2 * i], F_DUPFD_CLOEXEC, 64);
        if (high[i] < 0)
            return -1;
    }
    for (int64_t i = 0; i < n; i++) {
        int number = pairs[2 * i + 1];
        if (dup3(high[i], number, number > 2 ? O_CLOEXEC : 0) < 0)
            return -1;
        if (pairs[2 * i] == the_run.report_fd)
            report_fd = number;
        if (pairs[2 * i] == the_run.go_fd)
            go_fd = number;
    }
    the_run.report_fd = report_fd;
    the_run.go_fd = go_fd;
    set_cloexec_from(n ? (unsigned)pairs[2 * n - 1] + 1 : 3, 1);
    return 0;
}

/* PID 1 under --init: forwards signals, reaps, and ends as its first child does (as tini).
 * With no child of its own (0), reaps what others fork into the namespace until it is killed. */
__attribute__((noreturn)) static void reap(pid_t child)
{
    uint64_t all = ~0ULL;
    (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8);
    (void)prctl(PR_SET_NAME, "jupyter_ns-init", 0, 0, 0); /* ps(1) shows this, or the arguments: until now the engine's */
    if (jns_arguments.length)
        (void)strncpy((char *)(uintptr_t)jns_arguments.start, "jupyter_ns-init", jns_arguments.length - 1);
    for (;;) {
        for (;;) { /* first: the child may have ended before its SIGCHLD was blocked, and that is lost */
            int status;
            pid_t pid = (pid_t)syscall(SYS_wait4, -1, &status, WNOHANG, NULL);
            if (pid <= 0)
                break;
            if (child && pid == child)
                _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
        }
        /* Blocked, a signal is queued even for PID 1, which has no handlers: signal(7). */
        int sig = (int)syscall(SYS_rt_sigtimedwait, &all, NULL, NULL, 8);
        if (sig > 0 && sig != SIGCHLD && child)
            (void)kill(child, sig);
    }
}

static int become_init(void)
{
    int64_t child = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (child > 0) {
        set_cloexec_from(0, 1);
        reap((pid_t)child);
    }
    return (int)child;
}

static void send_running(uint32_t steps)
{
    the_run.running.report = (jns_report){JNS_RUNNING, (int32_t)steps, 0, 0};
    (void)!write(the_run.report_fd, &the_run.running, sizeof(jns_report) + steps * sizeof(int64_t));
}

/* In a directory of PATH that may not be searched, the program is not found, as in a shell: exit code 127. */
static int exec_first(char **paths, char **argv, char **envp)
{
    int err = ENOENT, given = argv[0] && strchr(argv[0], '/') != NULL;
    for (; *paths; paths++) {
        execve(*paths, argv, envp);
        if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
            return -1;
        if (errno == EACCES && (given || access(*paths, F_OK) == 0))
            err = EACCES; /* remembered, as by execvp(3), but a later directory may have it */
    }
    errno = err;
    return -1;
}

static char **list_of(uint32_t offset)
{
    return (char **)(void *)(the_run.image + offset + 8);
}

static int perform(const jns_step *step, int index)
{
    const int64_t *n = step->n;
    const char *s[4];
    for (int k = 0; k < 4; k++)
        s[k] = step->s[k] ? (const char *)the_run.image + step->s[k] : NULL;
    switch (step->op) {
    case JNS_MOUNT:
        return mount(s[0], s[1], s[2], (unsigned long)n[0], s[3]);
    case JNS_UMOUNT:
        return umount2(s[0], (int)n[0]);
    case JNS_PIVOT_ROOT:
        return (int)syscall(SYS_pivot_root, s[0], s[1]);
    case JNS_CHDIR:
        return chdir(s[0]);
    case JNS_MKDIR:
        return mkdir(s[0], (mode_t)n[0]);
    case JNS_RMDIR:
        return rmdir(s[0]);
    case JNS_MKNOD:
        return mknod(s[0], (mode_t)n[0], (dev_t)n[1]);
    case JNS_SYMLINK:
        return symlink(s[0], s[1]);
    case JNS_WRITE:
        return write_file(s[0], s[1], n[0]);
    case JNS_CHMOD:
        return chmod(s[0], (mode_t)n[0]);
    case JNS_CHOWN:
        return chown(s[0], (uid_t)n[0], (gid_t)n[1]);
    case JNS_HOSTNAME:
        return sethostname(s[0], (size_t)n[0]);
    case JNS_DOMAINNAME:
        return setdomainname(s[0], (size_t)n[0]);
    case JNS_LINK_UP:
        return link_up(s[0]);
    case JNS_UNSHARE:
        return unshare((int)n[0]);
    case JNS_SETNS:
        return setns((int)n[0], (int)n[1]);
    case JNS_SETNS_PATH:
        return setns_path(s[0], n[0]);
    case JNS_WAIT: {
        char byte;
        report(JNS_WAITING, index, 0);
        return (int)hear(&byte, 1, 1);
    }
    case JNS_PLAN:
        return wait_plan(index);
    case JNS_PRCTL:
        return prctl((int)n[0], n[1], n[2], n[3], n[4]);
    case JNS_BOUNDING:
        return drop_bounding((uint64_t)n[0], n[1]);
    case JNS_CAPSET:
        return set_capabilities((uint64_t)n[0], (uint64_t)n[1]);
    case JNS_SETGROUPS:
        return (int)syscall(SYS_setgroups, n[0], s[0]);
    case JNS_SETRESGID:
        return (int)syscall(SYS_setresgid, n[0], n[0], n[0]);
    case JNS_SETRESUID:
        return (int)syscall(SYS_setresuid, n[0], n[0], n[0]);
    case JNS_RLIMIT: {
        struct rlimit limit = {(rlim_t)n[1], (rlim_t)n[2]};
        return (int)syscall(SYS_prlimit64, 0, n[0], &limit, NULL);
    }
    case JNS_SECCOMP: {
        struct sock_fprog program = {(unsigned short)n[0], (struct sock_filter *)(uintptr_t)s[0]};
        return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
    }
    case JNS_SETSID:
        return (int)setsid();
    case JNS_UMASK:
        (void)umask((mode_t)n[0]);
        return 0;
    case JNS_KEYRING:
        return (int)syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
    case JNS_MOUNT_SETATTR: {
        struct jns_mount_attr attr = {(uint64_t)n[1], (uint64_t)n[2], 0, 0};
        return (int)syscall(SYS_mount_setattr, AT_FDCWD, s[0], n[0], &attr, sizeof attr);
    }
    case JNS_CTTY:
        return take_terminal(s[0]);
    case JNS_SIGNALS:
        return default_signals();
    case JNS_FDS:
        return arrange_fds((const int32_t *)(const void *)s[0], n[0]);
    case JNS_INIT:
        return become_init();
    case JNS_EXEC:
        send_running((uint32_t)index);
        return exec_first(list_of(step->s[0]), list_of(step->s[1]), list_of(step->s[2]));
    case JNS_IDMAP:
        return idmap(s[0], s[1], n[0]);
    case JNS_OPEN_TREE:
        return open_tree_at(s[0], (int)n[0], (unsigned)n[1]);
    case JNS_MOVE_MOUNT:
        return attach_tree((int)n[0], s[0]);
    case JNS_FSIDS:
        return set_fs_ids(n[0], n[1]);
    case JNS_CLOSE:
        return close((int)n[0]);
    case JNS_PAUSE:
        send_running((uint32_t)index);
        (void)close(the_run.report_fd); /* the streams stay open: they are for whoever enters */
        (void)close(the_run.go_fd);
        reap(0);
    default:
        errno = ENOSYS;
        return -1;
    }
}

/* Walk the steps from `first` up to `end`; of a plan that comes meanwhile, all. Returns the index of the one that
 * failed, having reported it; else `end`. */
static uint32_t walk(uint32_t first, uint32_t end)
{
    int64_t before = now_ns();
    for (uint32_t i = first; i < end; i++) {
        const jns_step *step = &the_run.steps[i];
        uint32_t at = the_run.first + i;
        if (perform(step, (int)at) < 0 && (errno != step->tolerate || !step->tolerate)) {
            report(JNS_FAILED, (int)at, errno);
            return i;
        }
        int64_t after = now_ns();
        the_run.running.times[at] = after - before;
        before = after;
        if (step->op == JNS_PLAN)
            return walk(0, the_run.count);
    }
    return end;
}

static int touches(const jns_range *range, const void *start, uint64_t length)
{
    return (uintptr_t)start < range->start + range->length && range->start < (uintptr_t)start + length;
}

/* Keep memory that the child does not need out of its copy (MADV_DONTFORK), or undo that: page tables are what
 * takes longest in clone3, and the child has nothing of the engine's afterwards. What the steps use is copied,
 * whatever the ranges say: the image, the_run, and libc's errno. */
static void leave_out(const jns_range *ranges, uint32_t n, uint64_t size, int advice)
{
    for (uint32_t i = 0; i < n; i++)
        if (!touches(&ranges[i], &errno, sizeof errno) && !touches(&ranges[i], &the_run, sizeof the_run) &&
            !touches(&ranges[i], the_run.image, size))
            (void)madvise((void *)(uintptr_t)ranges[i].start, ranges[i].length, advice); /* ENOMEM: unmapped since */
}

int64_t jns_spawn(uint64_t flags, int cgroup_fd, const void *image, uint64_t size, uint32_t count, int report_fd,
                  int go_fd, int *pidfd, const jns_range *unneeded, uint32_t unneeded_count)
{
    int r = prepare(image, size, count, report_fd, go_fd);
    if (r < 0)
        return r;
    struct jns_clone_args args = {
        .flags = flags | CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)pidfd, .exit_signal = SIGCHLD};
    uint64_t size_of_args = sizeof args;
    if (cgroup_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)cgroup_fd;
    } else {
        size_of_args = 64; /* CLONE_ARGS_SIZE_VER0: all that Linux 5.3 knows */
    }
    uint64_t all = ~0ULL, mask; /* until JNS_SIGNALS: the child has no handlers of Python's */
    leave_out(unneeded, unneeded_count, size, MADV_DONTFORK);
    (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, 8);
    int64_t pid = syscall(SYS_clone3, &args, size_of_args);
    if (pid == 0) {
        (void)walk(0, count);
        _exit(125);
    }
    int err = errno;
    (void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
    leave_out(unneeded, unneeded_count, size, MADV_DOFORK);
    image_free(the_run.image, size);
    return pid < 0 ? -err : pid;
}

int64_t jns_execute(const void *image, uint64_t size, uint32_t count, uint32_t first, uint32_t end, int report_fd,
                    int go_fd)
{
    int r = end > count ? -EINVAL : prepare(image, size, count, report_fd, go_fd);
    if (r < 0)
        return r;
    uint32_t done = walk(first, end);
    if (done == count) {
        send_running(count);
        (void)close(the_run.report_fd);
        (void)close(the_run.go_fd);
    }
    image_free(the_run.image, size);
    return done == end ? 0 : -(int64_t)done - 1;
}

int jns_setns(int fd, int type)
{
    return setns(fd, type) < 0 ? -errno : 0;
}

int jns_unshare(int flags)
{
    return unshare(flags) < 0 ? -errno : 0;
}

int jns_pidfd_getfd(int pidfd, int fd)
{
    int r = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    return r < 0 ? -errno : r;
}

int jns_bpf(int command, void *attributes, unsigned size)
{
    int r = (int)syscall(SYS_bpf, command, attributes, size);
    return r < 0 ? -errno : r;
}
