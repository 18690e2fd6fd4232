"""A dataset and the networks → one vector per image: found in the store, or made and kept.

`embed` asks the `store` and lets `embed_job` run what it lacks, here or on a `cluster`; a feature
extractor (`extractors`) is a network, what runs it, and the store of its vectors. Beside them:
vectors too many for memory (`on_disk`), the nearest ones (`neighbors`), copies (`duplicates`).
"""
