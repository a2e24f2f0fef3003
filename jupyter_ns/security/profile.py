"""Which system calls a container may make: Docker's default profile, sorted by purpose.

What is in no table is refused; among others io_uring (its operations pass by any filter), userfaultfd,
keyctl and its relatives (keyrings are not namespaced), kexec, swapon, pivot_root.

Notes
-----
The facts are those of moby/profiles ``seccomp/default.json``, v0.2.3 of May 2026, which is
under the Apache License 2.0; calls that only 32-bit architectures have are left out, as is the profile's
condition on ptrace and process_vm_*: "Linux 4.8 or later", which every supported kernel is.
"""

from __future__ import annotations

_BY_PURPOSE: dict[str, str] = {
    "files": """
        access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
        fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync flock fstat
        fstatfs fsync ftruncate futimesat getcwd getdents getdents64 ioctl lchown link linkat lseek lstat
        mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2
        pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat renameat2 rmdir
        sendfile splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask
        unlink unlinkat utime utimensat utimes vmsplice write writev""",
    "extended attributes": """
        fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat
        llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat""",
    "what is mounted (read only)": "listmount statmount",
    "memory": """
        brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
        mlockall mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
        pkey_mprotect remap_file_pages""",
    "processes and threads": """
        execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getpgid getpgrp getpid
        getppid getsid gettid kill pidfd_open pidfd_send_signal prctl process_mrelease restart_syscall rseq
        set_robust_list set_thread_area set_tid_address setpgid setsid tgkill tkill uretprobe vfork wait4
        waitid""",
    "tracing one's own processes": "process_vm_readv process_vm_writev ptrace",
    "futexes": "futex futex_requeue futex_wait futex_waitv futex_wake",
    "signals": """
        pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4""",
    "identity and confinement of oneself": """
        capget capset getegid geteuid getgid getgroups getresgid getresuid getuid landlock_add_rule
        landlock_create_ruleset landlock_restrict_self seccomp setfsgid setfsuid setgid setgroups setregid
        setresgid setresuid setreuid setuid""",
    "scheduling and limits": """
        getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max
        sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
        sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
        setpriority setrlimit""",
    "waiting for events": """
        epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
        epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1
        inotify_rm_watch poll ppoll pselect6 select""",
    "asynchronous I/O (not io_uring)": """
        io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit""",
    "sockets and pipes": """
        accept accept4 bind connect getpeername getsockname getsockopt listen pipe pipe2 recvfrom recvmmsg
        recvmsg sendmmsg sendmsg sendto setsockopt shutdown socketpair""",
    "System V IPC and message queues": """
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
        semctl semget semop semtimedop shmat shmctl shmdt shmget""",
    "time": """
        adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday
        nanosleep setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_settime
        timerfd_create timerfd_gettime timerfd_settime times""",
    "the rest": "getrandom sysinfo uname",
    "x86 only": "arch_prctl modify_ldt",
}

ALLOWED: frozenset[str] = frozenset(name for group in _BY_PURPOSE.values() for name in group.split())
"""Calls that are always allowed, whatever their arguments."""

BY_CAPABILITY: dict[str, tuple[str, ...]] = {
    "DAC_READ_SEARCH": ("open_by_handle_at",),
    "SYS_ADMIN": (
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
        "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount",
        "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd",
        "setdomainname", "sethostname", "setns", "syslog", "umount2", "unshare",
    ),
    "SYS_BOOT": ("reboot",),
    "SYS_CHROOT": ("chroot",),
    "SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "SYS_PACCT": ("acct",),
    "SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise"),
    "SYS_RAWIO": ("ioperm", "iopl"),
    "SYS_TIME": ("clock_settime", "settimeofday"),
    "SYS_TTY_CONFIG": ("vhangup",),
    "SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "SYSLOG": ("syslog",),
    "BPF": ("bpf",),
    "PERFMON": ("perf_event_open",),
}  # fmt: skip
"""Calls that are allowed once a capability (named as in `capabilities.NAMES`) is granted."""

CLONE_NAMESPACES = 0x7E020000
"""Every CLONE_NEW* flag of clone(2): a new user namespace would give back what the filter takes."""

REFUSED_FAMILIES: dict[int, str] = {
    38: "AF_ALG: kernel crypto, a large attack surface",
    40: "AF_VSOCK: not namespaced; reaches the host and other virtual machines",
}
"""Address families that socket(2) is refused, with the reason."""

PERSONALITIES: tuple[int, ...] = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Arguments that personality(2) is allowed: PER_LINUX and PER_LINUX32, each also with UNAME26; and the
query."""
