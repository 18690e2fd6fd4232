"""The ground that everything stands on: it knows nothing of images, networks or models.

Options (`config`, `data_settings`) and errors, files written whole or not at all, child processes,
threads and shared memory, what ends a run and what it leaves, libraries loaded in time, and
`callbacks`: how whatever takes long says how far it is.
"""
