"""The one long job on many machines: Ray hands it out, actors hold the engine and write parts.

The images to be run are dealt into batches, as large as a part. Ray Data hands them to actors;
each of these reads, decodes and runs its batch and writes its part itself, and answers with
nothing but which images are done: vectors never travel. A worker that is lost is started anew and
its batch is run again, and as vectors are found by their key that does no harm.
"""

from topwork.vectors.cluster.connection import Cluster, join_cluster, leave_clusters

__all__ = ["Cluster", "join_cluster", "leave_clusters"]
