"""What all other folders use: atomic files, memory-mapped arrays, progress bars, threads."""
