"""Work folders and reports in buckets: object storage that fsspec opens (`gs://`, `s3://`).

Everything is written and read on a disk of this machine, as always, and copied: `mirror` what a run writes, `copies`
what is read. A bucket has neither rename nor locks: the file that makes a checkpoint one is copied last and removed
first, and `claim` says whose a work folder is. docs/buckets.md describes all of it.
"""
