"""K4, the whole search of a table in one launch: networks, flow, objective, step and stopping of every row."""

from cfexplain.ops.table_search.packing import Dense, Network, NotCovered, TableSearch, read_network

__all__ = ["Dense", "Network", "NotCovered", "TableSearch", "read_network"]
