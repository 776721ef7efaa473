"""The version of this release, said here alone: asking the installed metadata for it takes longer than a first call."""

VERSION = "0.1.0"
