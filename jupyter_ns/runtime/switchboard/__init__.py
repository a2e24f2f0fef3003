"""The engine's networks, and the process that makes them: `jupyter_ns.networks` has the theory of operation.

`switch` (interfaces), `relay` (published ports) and `process` are the switchboard; `client` and `manager` are in the
engine.
"""
