"""The benchmarks of the paper, one file each, on data in the layout in which it is distributed."""
