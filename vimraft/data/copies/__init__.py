"""The shells of volumes with several copies: what the machines of `vimraft.protocol` need to run on threads,
libnbd and files. `owner_side` and what it uses run in the owner's export; `store_side` runs in one process
per site at a time."""
