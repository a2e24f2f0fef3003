"""Security policy as data: capabilities, system calls, hidden paths, sysctls.

Everything here is pure: nothing is applied, the plan's steps do that.
"""
