"""The one long job on many machines: Ray reads, actors hold the engine, parts go to the store."""
