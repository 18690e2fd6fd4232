from topwork.vectors.cluster import connection, join_cluster, leave_clusters


def test_a_process_joins_each_cluster_once_and_leaves_them_all(monkeypatch):
    left = []
    monkeypatch.setattr(connection.Cluster, "close", lambda self: left.append(self.address))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    first, second = join_cluster("head:6379"), join_cluster(None)
    assert join_cluster("head:6379") is first
    assert first is not second
    leave_clusters()
    assert sorted(left, key=str) == [None, "head:6379"]
    leave_clusters()
    assert len(left) == 2
    assert join_cluster("head:6379") is not first
    leave_clusters()
