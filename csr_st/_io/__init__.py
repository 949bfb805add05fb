"""What every room stands on: files that appear whole, progress bars, threads."""
