"""Networks between containers, as data.

Theory of operation. A network is a bridge in a network namespace of its own, which nobody but the *switchboard* is
in: a child of the engine that makes those namespaces, connects containers to the bridges and passes on what comes to
published ports (`jupyter_ns.runtime.switchboard`). So nothing is ever done to the host's own network; two networks do
not even share a stack; an ordinary user can do all of it, in the engine's user namespace; and everything goes with the
switchboard, which goes with the engine.

Everything here is pure: `data` says what networks and endpoints are, `messages` how rtnetlink(7) is told, and `wiring`
which messages make an endpoint, which the switchboard sends and a plan prints.
"""
