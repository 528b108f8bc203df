"""HTTP service of an export: batching, cache, limits, reload."""
