"""From wherever labelled images lie → a `Dataset`: sources, labels, groups and splits.

`readers` make sense of folders, tables and archives, `remote` fetches what lies elsewhere,
`splits` sets images aside, `hashing` names each by its bytes; `fix_list` and `apply_fixes` take
what a person says of them. No pixel is decoded here.
"""
