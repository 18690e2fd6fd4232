"""Files on other machines.

In: URLs. Out: lists of files, and copies in a cache. `cache` is what the readers use; `web` and
`buckets` talk to servers, `transfers` says what all of them offer and what their errors mean,
`downloads` keeps files in the cache, and `urls` reads URLs.
"""
