"""Where large buffers live and how they are counted: the slab, its ledger, cached tiles, the spill file, the gauge."""
