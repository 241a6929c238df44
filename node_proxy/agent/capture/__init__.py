"""Interception: one nftables table and the routes that make virtual IPs reachable.

`plan` (pure) says what is to be in force, `apply` speaks to the kernel, `installing` puts a plan in force in
steps of which each may be the last, `watchdog` takes an unconfirmed one back, `live` keeps the agent's own
current, `commands` is what an operator types. Nothing here touches another's table or route.
"""
