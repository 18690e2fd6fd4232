"""Work ahead of whoever needs it: in threads, or in processes."""
