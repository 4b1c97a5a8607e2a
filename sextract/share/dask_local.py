"""Dask on this machine, two workers: sextract @night.txt --engine dask:dask_local.py --mem-limit 1G

The limit is each worker's, with all that it starts; Dask's own must be 0.  The cluster lives as long as the survey.
"""

from distributed import LocalCluster

cluster = LocalCluster(
    host="127.0.0.1",
    n_workers=2,
    threads_per_worker=1,
    processes=True,
    memory_limit=0,
    dashboard_address=None,
)
