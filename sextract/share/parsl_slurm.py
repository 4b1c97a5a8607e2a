"""Parsl on a Slurm cluster: sextract @night.txt --engine parsl:parsl_slurm.py --mem-limit 2G -o catalogues/

Set partition, account and numbers below.  Run it on a login node, in a folder that all nodes see: what Parsl writes goes beside
the manifest.  Each node has cores / cores_per_worker workers, and --mem-limit holds for each of them with all it starts: with
Parsl's own processes (some 110 MiB a node), workers times the limit must fit into mem_per_node.

For PBS or HTCondor, put parsl.providers.PBSProProvider(queue=..., cpus_per_node=...) or CondorProvider(cores_per_slot=...,
mem_per_slot=...) in SlurmProvider's place.
"""

from parsl.addresses import address_by_hostname
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.providers import SlurmProvider

config = Config(
    executors=[
        HighThroughputExecutor(
            label="slurm",
            # Of the node this is run on, as the others know it.
            address=address_by_hostname(),
            cores_per_worker=1,
            # How soon a worker that died is noticed, and how soon workers leave whose survey is gone; seconds.
            heartbeat_period=15,
            heartbeat_threshold=120,
            provider=SlurmProvider(
                partition=None,
                account=None,
                nodes_per_block=1,
                cores_per_node=16,
                mem_per_node=36,
                init_blocks=1,
                min_blocks=0,
                max_blocks=10,
                walltime="04:00:00",
                # Whatever makes sextract known on a node.
                worker_init="",
                launcher=SrunLauncher(),
            ),
        )
    ],
)
