"""Copies kept in step, on simulated time, network, disks and clocks, from a seed.

    python -m tests.simulation.cluster --seeds 1:200 [--mutation NAME] [--jobs N]
    python -m tests.simulation.cluster --replay 17        the history of one seed
    python -m tests.simulation.cluster --mutations        which rules can be taken away

The world (`clock`, `process`, `wire`, `media`, `ledger`) knows nothing of the protocol, the checkers
(`record`, `linear`, `losses`) nothing of either. `export`, `forward` and `shop` are the thin shells that let
the machines of `vimraft.protocol` loose on the world.
"""
