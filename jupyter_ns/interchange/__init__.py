"""Containers in the words of others: OCI bundles, which crun and runc run, and Docker's command line."""
