"""Transfer learning on images."""
