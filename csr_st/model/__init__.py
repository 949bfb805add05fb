"""What the head is made of: its settings, its files, its linear layer, its top-k."""
