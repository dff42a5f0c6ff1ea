"""The laptop stack: MiniStack and the fleet behind one loopback port.

``lifecycle`` starts, stops and describes it, ``control`` reaches into a running one (take an instance
away as Spot would, restart an agent, make events unreliable), ``server`` is the process itself, and
``fleet`` is the part of EC2, Auto Scaling and Systems Manager that really runs commands.
Importing this package imports nothing beyond the standard library.
"""
