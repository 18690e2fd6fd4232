"""Who of several processes on one machine works on what."""
