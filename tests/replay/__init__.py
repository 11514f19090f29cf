"""A chain that answers as a substrate node does, on loopback: for tests of what reads the electorate from it.

The real ``substrateinterface.SubstrateInterface`` connects to it, initialises and reads. Metadata of both runtimes and
the neurons of netuid 1 are recorded, netuid 64 is made up (data/README.md). Blocks come by a clock; changes of the
subnet and faults on demand. In a test::

    chain = Chain(made_up(), clock=Clock())
    async with ReplayServer(chain) as server:
        chain.change(Change("permit", hotkey, value=False))
        server.faults.add("pruned", "state_call", times=1)
        ... SubstrateInterface(server.url) ...

and as a program, for devnets: ``python -m tests.replay --help``.
"""
