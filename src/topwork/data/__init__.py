"""From wherever labelled images lie to a `Dataset`.

In: a folder, table, archive or URL, or images in memory. Out: a `Dataset` of sources, labels,
groups and splits. `readers` list what lies in folders, tables and archives, `remote` downloads
from other machines, `labels` makes classes of texts, `splits` holds images out, `hashing`
identifies each by its bytes, and `fix_list` and `apply_fixes` apply a person's verdicts. No pixel
is decoded here.
"""
