"""Every record and bundle on every machine: the log, each machine's copy, the blobs."""
