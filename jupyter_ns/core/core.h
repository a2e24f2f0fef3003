/* The interface of the C core: shared by core.c and the cffi build (build.py).
 *
 * A plan image is one block of bytes: `count` steps, then the data that they point at by
 * offset from the block's start. Offset 0 (where the first step stands) means NULL.
 */

enum jns_op {
    JNS_MOUNT = 1,      /* s0 source, s1 target, s2 fstype, n0 flags, s3 data     mount(2) */
    JNS_UMOUNT = 2,     /* s0 target, n0 flags                                    umount2(2) */
    JNS_PIVOT_ROOT = 3, /* s0 new_root, s1 put_old                                pivot_root(2) */
    JNS_CHDIR = 4,      /* s0 path                                                chdir(2) */
    JNS_MKDIR = 5,      /* s0 path, n0 mode                                       mkdir(2) */
    JNS_RMDIR = 6,      /* s0 path                                                rmdir(2) */
    JNS_MKNOD = 7,      /* s0 path, n0 mode, n1 dev                               mknod(2) */
    JNS_SYMLINK = 8,    /* s0 target, s1 linkpath                                 symlink(2) */
    JNS_WRITE = 9,      /* s0 path, s1 data, n0 length                            open, write, close */
    JNS_HOSTNAME = 10,  /* s0 name, n0 length                                     sethostname(2) */
    JNS_DOMAINNAME = 11, /* s0 name, n0 length                                    setdomainname(2) */
    JNS_LINK_UP = 12,   /* s0 interface                                           netdevice(7) SIOCSIFFLAGS */
    JNS_UNSHARE = 13,   /* n0 flags                                               unshare(2) */
    JNS_SETNS = 14,     /* n0 fd, n1 type                                         setns(2) */
    JNS_SETNS_PATH = 15, /* s0 path, n0 type                                      open, setns(2) */
    JNS_WAIT = 16,      /* s0 label                                                  report, then read one byte */
    JNS_PRCTL = 17,     /* n0 option, n1 to n4                                    prctl(2) */
    JNS_BOUNDING = 18,  /* n0 mask, n1 last                                       prctl(PR_CAPBSET_DROP) for the others */
    JNS_CAPSET = 19,    /* n0 permitted = effective, n1 inheritable               capset(2) */
    JNS_SETGROUPS = 20, /* s0 gid_t array, n0 count                               setgroups(2) */
    JNS_SETRESGID = 21, /* n0 gid                                                 setresgid(2) */
    JNS_SETRESUID = 22, /* n0 uid                                                 setresuid(2) */
    JNS_RLIMIT = 23,    /* n0 resource, n1 soft, n2 hard                          prlimit(2) */
    JNS_SECCOMP = 24,   /* s0 sock_filter array, n0 instructions                  seccomp(2) */
    JNS_SETSID = 25,    /* -                                                      setsid(2) */
    JNS_UMASK = 26,     /* n0 mask                                                umask(2) */
    JNS_KEYRING = 27,   /* -                                                      keyctl(KEYCTL_JOIN_SESSION_KEYRING) */
    JNS_MOUNT_SETATTR = 28, /* s0 path, n0 at_flags, n1 attr_set, n2 attr_clr     mount_setattr(2) */
    JNS_SIGNALS = 29,   /* -                                                      every signal to its default, none blocked */
    JNS_FDS = 30,       /* s0 int32 pairs (fd, number; ascending), n0 pairs       dup3(2); everything else closed */
    JNS_INIT = 31,      /* -                                                      clone; the parent is PID 1, reaps, and says so */
    JNS_EXEC = 32,      /* s0 paths, s1 argv, s2 envp (string lists)              execve(2), first path that exists */
    JNS_CHMOD = 33,     /* s0 path, n0 mode                                       chmod(2) */
    JNS_PAUSE = 34,     /* -                                                      stay as PID 1 and reap */
    JNS_IDMAP = 35,     /* s0 source, s1 target, n0 user namespace fd             a clone of the mount, IDs mapped */
    JNS_FSIDS = 36,     /* n0 uid, n1 gid                                         setfsuid(2), setfsgid(2); capabilities stay */
    JNS_CLOSE = 37,     /* n0 fd                                                  close(2) */
    JNS_CHOWN = 38,     /* s0 path, n0 owner, n1 group                            chown(2) */
    JNS_CTTY = 39,      /* s0 path                                                open, dup3: the leader's, tty_ioctl(4) */
    JNS_OPEN_TREE = 40, /* s0 path, n0 number, n1 flags                           open_tree(2), a clone of the mount; dup3 */
    JNS_MOVE_MOUNT = 41, /* s0 target, n0 fd                                       move_mount(2); the fd is closed */
    JNS_PLAN = 42       /* s0 label                     report, read uint64 size, count, first, and image; go on with it:
                           in reports, its steps count from `first` */
};

/* Phases of a report. */
enum { JNS_FAILED = 1, JNS_WAITING = 2, JNS_RUNNING = 3, JNS_DONE = 4 };

enum { JNS_MAX_STEPS = 4096 };

typedef struct {
    int32_t op;
    int32_t tolerate; /* an errno that counts as success; 0: none */
    int64_t n[5];
    uint32_t s[4];
} jns_step;

/* Sixteen bytes, written at once. JNS_RUNNING is followed by `step` int64 times (ns).
 * JNS_DONE comes from a Python cell, which is about to end with exit code `step`. */
typedef struct {
    int32_t phase;
    int32_t step;
    int32_t err;
    int32_t value;
} jns_report;

/* Addresses of this process's memory, in whole pages. */
typedef struct {
    uint64_t start;
    uint64_t length;
} jns_range;

/* Where /proc/PID/cmdline is read from, in this process and in its children: proc_pid_cmdline(5); none by default. */
extern jns_range jns_arguments;

/* clone3 with `flags`; the child carries out the plan and never returns.
 * Returns the child's PID and puts its pidfd into *pidfd, or returns -errno.
 * report_fd, go_fd: numbers *before* a JNS_FDS step, which moves them (see core.c).
 * unneeded: memory that the child is made without. */
int64_t jns_spawn(uint64_t flags, int cgroup_fd, const void *image, uint64_t size, uint32_t count, int report_fd,
                  int go_fd, int *pidfd, const jns_range *unneeded, uint32_t unneeded_count);

/* Carry out the steps from `first` up to `end` of the plan in the calling process, which must be
 * single-threaded and must be the child of a libc fork; with the last step, say JNS_RUNNING.
 * Returns 0, or -(index + 1) after having reported the failure. */
int64_t jns_execute(const void *image, uint64_t size, uint32_t count, uint32_t first, uint32_t end, int report_fd,
                    int go_fd);

/* setns(2), pidfd_open(2), pidfd_getfd(2), pidfd_send_signal(2): -errno on failure. */
int jns_setns(int fd, int type);
int jns_unshare(int flags);
int jns_pidfd_getfd(int pidfd, int fd);

/* bpf(2): the command's result, -errno on failure. */
int jns_bpf(int command, void *attributes, unsigned size);
