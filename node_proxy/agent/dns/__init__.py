"""The resolver: names of the mesh from the state in memory, all others from upstreams if that is wanted.

`zone`, `answer` and `answer_cache` are pure; `server` and `forward` do the I/O; `resolver` joins them.
"""
