"""What lies in a store, and its upkeep: sizes, ages, small parts made one, pruning."""
