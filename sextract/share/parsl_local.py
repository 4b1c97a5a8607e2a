"""Parsl on this machine, two workers: sextract @night.txt --engine parsl:parsl_local.py --mem-limit 1G

The limit is each worker's, with all that it starts.
"""

from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

config = Config(
    executors=[
        HighThroughputExecutor(
            label="here",
            address="127.0.0.1",
            max_workers_per_node=2,
            # How soon a worker that died is noticed, and how soon workers leave whose survey is gone; seconds.
            heartbeat_period=2,
            heartbeat_threshold=10,
            provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        )
    ],
)
