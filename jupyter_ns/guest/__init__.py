"""A guest: the same engine in a user-mode Linux kernel, which is an ordinary process and needs no privilege.

Theory of operation. The notebook's kernel starts a *keeper* (`keeper`) in place of the engine, with the same end
of the same byte stream. The keeper boots the guest with this machine's files as its root (hostfs), and passes
bytes on between that stream and the guest's serial line. In the guest, PID 1 (`init`) mounts what a kernel has to
offer and starts the engine on that line. Nobody but the keeper knows that there is a guest.

The guest ends with the stream: the line hangs up, its engine takes everything down, its kernel powers off. Where
that does not happen the keeper kills it; where the keeper is killed, the kernel does (PR_SET_PDEATHSIG).
"""
