"""Search loops compiled by numba; arrays that belong together are passed as a tuple of arrays.

- Search of codes: `inversion` builds the postings, `traversal` (with `sums`) is the 8-bit first
  pass and says why the result is exact, `candidates` selects and scores exactly.
- Large collections: `spans` builds, `bounds` is the first pass, `pruning` the next two passes and
  the reason for exactness; `prefetching` hides memory latency.
- BM25: `words`. Rescoring: `reconstruction`, `debiasing`, `residual`. Queries by look-up:
  `static_queries`.
- For all of them: `fixed_point` (stored values), `importing` (numba is optional).
"""
