"""Images and volumes: a content-addressed store, and what comes into it and out of it.

Theory of operation. A blob is a file named by its SHA-256; a layer is a directory named by the
SHA-256 of its uncompressed archive, in the form that overlayfs stacks; an image is one small record
that names its layers, and exists once all of them do. Everything is made in a scratch directory and
renamed into its place, so that a process killed anywhere leaves a consistent store.
"""
